"""Room for noise: which inputs and sums are beyond it, and what is checked before the start."""

from __future__ import annotations

import math

import attrs
import numpy as np
import pytest
from qres_secagg import Secagg
from qres_secagg.fitting import DEVIATIONS, misfits
from qres_secagg.parameters import Parameters
from qres_secagg.ring import weighted

from qres_core import Surroundings
from qres_core.claims import Extent
from qres_core.errors import ValueRefusedError

FEWEST = 3
"""Fewest inputs in a sum that is opened."""
UNIT = 2**16


def beyond(deviations: float) -> float:
    """How often a Gaussian is farther out, on either side."""
    return math.erfc(deviations / math.sqrt(2))


@pytest.mark.claim("C-secagg-30")
def test_the_numbers_that_the_manual_gives() -> None:
    assert 2.0**-29 < beyond(DEVIATIONS) < 2.0**-28
    # Six deviations of a sum are more than ten of a share, in the smallest sum there is.
    assert DEVIATIONS * math.sqrt(FEWEST) > 10
    assert beyond(DEVIATIONS * math.sqrt(FEWEST)) < 2.0**-80


@pytest.mark.claim("C-secagg-30")
@pytest.mark.parametrize("summands", [3, 8, 100])
def test_the_room_is_for_the_noise_of_a_sum_and_the_bound_for_the_clip_alone(summands: int) -> None:
    clip, deviation = 4.0, 0.25
    room = math.ceil(DEVIATIONS * deviation * math.sqrt(summands) * UNIT)
    numbers = Parameters(
        dimension=1,
        k=summands,
        t=summands,
        acks=summands,
        corrupt=0,
        min_survivors=3,
        bound=int(clip * UNIT),
        summands=summands,
        noise=room,
    )
    around = Surroundings(
        nodes=summands,
        byzantine=0,
        quorum=summands,
        extent=Extent(length=clip, clipped_by="dp", noise=deviation, noised_by="dp"),
    )

    def refused(parameters: Parameters, bound: float = clip) -> set[str]:
        found = misfits(around, parameters, Secagg(bound=bound, patience=1.0))
        return {problem.code for problem in found}

    assert not refused(numbers)
    assert refused(attrs.evolve(numbers, noise=room - 2)) == {"QRES-E313"}
    assert refused(numbers, clip - 2.0**-10) == {"QRES-E313"}
    # A coordinate as long as the clip, with ten deviations of a share on top, is masked.
    far = np.array([int((clip + 10 * deviation) * UNIT)], dtype=np.int32)
    assert weighted(far, 1, numbers, int(clip * UNIT)).tolist() == far.tolist()
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        weighted(far + np.int32(room), 1, numbers, int(clip * UNIT))
