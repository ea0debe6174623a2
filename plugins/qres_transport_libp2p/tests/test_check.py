"""What the plugin says of a configuration that it cannot carry."""

from __future__ import annotations

import attrs
from qres_transport_libp2p import Libp2p

from qres_core import Surroundings

FITS = Surroundings(nodes=4, byzantine=0, quorum=4, hooks=frozenset({"link_keys"}))
MIB = 2**20


def test_with_a_key_and_room_for_the_largest_message_there_is_no_problem() -> None:
    assert list(Libp2p().check(FITS)) == []


def test_without_a_plugin_that_lends_a_key_it_says_which_to_add() -> None:
    (problem,) = Libp2p().check(attrs.evolve(FITS, hooks=frozenset({"admit"})))
    assert (problem.code, problem.where) == ("QRES-E305", "plugins.libp2p")
    assert "no enabled plugin has the hook link_keys" in problem.what
    assert problem.fix == "add [plugins.ed25519]"


def test_blobs_that_cannot_hold_the_largest_message_are_named_with_both_sizes() -> None:
    around = attrs.evolve(FITS, max_message_bytes=8 * MIB)
    small = Libp2p(blob_bytes=MIB, spool_bytes=2 * MIB)
    problems = list(small.check(around))
    assert [(problem.code, problem.where) for problem in problems] == [
        ("QRES-E105", "plugins.libp2p.blob_bytes"),
        ("QRES-E105", "plugins.libp2p.spool_bytes"),
    ]
    assert problems[0].what == "is 1048576, and swarm.max_message_bytes is 8388608"
    assert problems[1].fix == "spool_bytes = 8388608 or more, or a lower swarm.max_message_bytes"
    assert list(Libp2p(blob_bytes=8 * MIB, spool_bytes=8 * MIB).check(around)) == []
    # A message that fits into a frame needs no blob.
    frame = attrs.evolve(FITS, max_message_bytes=small.frame_bytes)
    assert list(small.check(frame)) == []
