"""Releases of a node in a round, by mode: one class for each way, and no other place that asks.

===============  ==================  ============================================================
mode             class               what is different
===============  ==================  ============================================================
``local``        ``LocalRelease``    the node adds all the noise
``distributed``  ``SharedRelease``   the node adds a share, and sums are checked for enough
``distributed``  ``EncodedRelease``  … to a row that holds earlier updates; the sum is decoded
===============  ==================  ============================================================
"""

from __future__ import annotations

from qres_dp.modes import Mode
from qres_dp.releases.base import Release
from qres_dp.releases.encoded import EncodedRelease
from qres_dp.releases.local import LocalRelease
from qres_dp.releases.shared import SharedRelease
from qres_dp.terms import ReleaseTerms

__all__ = ["Release", "release_of"]


def release_of(terms: ReleaseTerms) -> Release:
    """The release that the options ask for."""
    if terms.mode is Mode.DISTRIBUTED:
        if terms.correlation is not None:
            return EncodedRelease(terms, terms.correlation)
        return SharedRelease(terms)
    return LocalRelease(terms)
