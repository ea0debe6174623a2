"""What the plugin says of a whitelist with which no round of the swarm would close."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
from qres_pki import Pki

from qres_core import Surroundings

KEYS = tuple(bytes([number]).hex() * 32 for number in range(1, 6))
FITS = Surroundings(nodes=5, byzantine=1, quorum=4)


def test_enough_members_are_no_problem() -> None:
    assert list(Pki(members=KEYS).check(FITS)) == []
    assert list(Pki(members=KEYS[:4]).check(FITS)) == []
    assert list(Pki(members=KEYS).check(attrs.evolve(FITS, roster=KEYS))) == []


@pytest.mark.parametrize(
    ("members", "around", "what"),
    [
        (KEYS[:3], FITS, "lets in 3 nodes of the swarm, and swarm.quorum = 4"),
        # The whitelist is long enough, but most of it is of another swarm.
        (KEYS, attrs.evolve(FITS, roster=(*KEYS[:2], "ff" * 32)), "lets in 2 nodes of the swarm"),
        (
            KEYS[:2],
            attrs.evolve(FITS, quorum=2),
            "lets in 2 nodes of the swarm, and the votes that decide = 4",
        ),
        ((KEYS[0], KEYS[0], KEYS[0], KEYS[0]), FITS, "lets in 1 nodes"),
    ],
)
def test_too_few_members_are_refused_before_the_start(
    members: tuple[str, ...], around: Surroundings, what: str
) -> None:
    (problem,) = Pki(members=members).check(around)
    assert problem.code == "QRES-E304"
    assert problem.where == "plugins.pki.members"
    assert what in problem.what
    assert "list the identities of at least 4 nodes" in problem.fix


def test_what_a_file_of_members_adds_is_not_known_before_the_start(tmp_path: Path) -> None:
    assert list(Pki(members=KEYS[:1], members_file=str(tmp_path / "members")).check(FITS)) == []
