"""What the plugin says of a configuration whose honest updates could not be proved about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_zk import Zk
from qres_zk.slack import factor

from qres_core import Surroundings
from qres_core.claims import Extent
from qres_core.errors import Problem

FITS = Surroundings(nodes=9, byzantine=1, quorum=8)


def problems(options: dict[str, Any], around: Surroundings) -> list[Problem]:
    return list(Zk(**{"bound": 10.0, **options}).check(around))


def only(options: dict[str, Any], around: Surroundings) -> tuple[str, str, str]:
    (problem,) = problems(options, around)
    return problem.code, problem.where, f"{problem.what}\n{problem.fix}"


def test_a_bound_on_the_grid_with_room_is_no_problem() -> None:
    assert problems({}, FITS) == []
    assert problems({}, attrs.evolve(FITS, extent=Extent(length=1.0, clipped_by="dp"))) == []


@pytest.mark.parametrize(
    ("bound", "scale", "steps"), [(1e-3, 16, "0 steps"), (1e9, 0, "65536000000000 steps")]
)
def test_a_bound_that_the_grid_cannot_hold_is_named_in_steps(
    bound: float, scale: int, steps: str
) -> None:
    around = attrs.evolve(FITS, scale=scale)
    code, where, text = only({"bound": bound}, around)
    assert (code, where) == ("QRES-E313", "plugins.zk.bound")
    assert f"{bound:g} is {steps} of the grid at swarm.scale = {scale}" in text
    assert "another plugins.zk.bound, or swarm.scale" in text


def test_every_plugin_that_changes_the_update_after_the_commitment_is_named() -> None:
    found = problems({}, attrs.evolve(FITS, after=("dp", "other")))
    assert [(problem.code, problem.where) for problem in found] == [("QRES-E303", "plugins.zk")] * 2
    assert [problem.fix for problem in found] == [
        "put [plugins.zk] after [plugins.dp] in the file",
        "put [plugins.zk] after [plugins.other] in the file",
    ]


def test_noise_that_another_counts_on_is_not_clipped() -> None:
    noisy = Extent(length=1.0, clipped_by="dp", noise=0.01, noised_by="dp")
    around = attrs.evolve(FITS, extent=noisy)
    code, where, text = only({"clip": True}, around)
    assert (code, where) == ("QRES-E314", "plugins.zk.clip")
    assert "would take away noise that plugins.dp counts on" in text
    assert problems({"clip": False}, around) == []
    assert problems({"clip": True}, attrs.evolve(around, extent=Extent(length=1.0))) == []


def test_a_bound_that_honest_updates_exceed_is_named_and_the_remedy_is_enough() -> None:
    around = attrs.evolve(FITS, extent=Extent(length=20.0, clipped_by="dp"))
    code, where, text = only({"clip": False}, around)
    assert (code, where) == ("QRES-E313", "plugins.zk.bound")
    assert "after dp they can be 20: such nodes would contribute nothing" in text
    found = re.search(r"bound >= ([\d.]+)", text)
    assert found is not None
    enough = float(found[1])
    zk = Zk(bound=10.0)
    assert enough == pytest.approx(20.0 * factor(zk.k, zk.security), rel=1e-3)
    assert problems({"clip": False, "bound": enough * 1.0001}, around) == []
    assert problems({"clip": False, "bound": enough * 0.99}, around) != []
    # What is clipped is short enough.
    assert problems({"clip": True}, around) == []


def test_noise_makes_updates_longer_by_the_square_root_of_the_dimension() -> None:
    noisy = Extent(length=1.0, clipped_by="clip", noise=0.1, noised_by="dp")
    around = attrs.evolve(FITS, extent=noisy, dimension=10_000)
    code, _where, text = only({"clip": False}, around)
    assert code == "QRES-E313"
    # 1 + 0.1 (sqrt(10 000) + 6)
    assert "after clip and dp they can be 11.6" in text
    # Where the dimension is not known yet, the least that noise can add counts.
    assert problems({"clip": False}, attrs.evolve(around, dimension=0)) == []


def test_around_another_centre_nothing_is_known_of_the_length(tmp_path: Path) -> None:
    center = tmp_path / "center.npy"
    np.save(center, np.ones(50))
    around = attrs.evolve(FITS, extent=Extent(length=1e6, clipped_by="dp"))
    assert problems({"clip": False}, around) != []  # control
    assert problems({"clip": False, "center": str(center)}, around) == []


def test_what_passes_is_no_longer_than_what_is_proved() -> None:
    before = Extent(length=50.0, clipped_by="dp", accepted=70.0)
    long = Zk(bound=10.0, clip=False)
    assert long.passes(before, FITS) == attrs.evolve(before, accepted=10.0)
    short = Zk(bound=10.0, clip=True).passes(before, FITS)
    assert short.accepted == 10.0
    assert short.length == pytest.approx(10.0 / factor(long.k, long.security))
