"""A round that one process ends alone, check by check."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import Envelope, Fault, RoundStatus, Vector
from qres_core.contract.faults import Merit
from qres_core.swarm.contributions.lone_round import LoneRound, aborted
from qres_core.swarm.ledger.messages import ContributionBody
from qres_core.training import HeldOut

MODEL = np.zeros(3, dtype=np.int32)
SHORT = np.array([300, -700], dtype=np.int32)
ROWS = ([0, 3, 6], [2, 5, 8], [4, 7, 10], [9, 9, 9])


@attrs.frozen
class Stand:
    """A round, the swarm that its kernel is of, and shorthand."""

    net: Any
    lone: LoneRound

    def sent(self, index: int, payload: bytes) -> Envelope:
        """A message of a member."""
        made: Envelope = self.net.forge(index, "contribution", payload, number=1, model=bytes(32))
        return made

    def gives(self, index: int, row: list[int] | None = None, **body: Any) -> str:
        """Why a contribution of a member is refused; empty where it is kept."""
        vector = np.array(ROWS[index] if row is None else row, dtype=np.int32)
        made = ContributionBody(**{"weight": 1, "proofs": {}, **body, "vector": vector})
        refusal = self.lone.take(self.sent(index, made.to_bytes()))
        return "" if refusal is None else refusal.reason

    def plugin(self, name: str) -> Any:
        """A plugin of the one that takes in."""
        return self.net.nodes[0].plugin(name)

    def facts(self) -> list[tuple[int, str]]:
        """What was observed of whom."""
        seen = self.plugin("witness").evidence
        return [(self.net.index_of[item.subject], str(item.fact)) for item in seen]


def stand(
    harness: ModuleType, plugins: Mapping[str, Mapping[str, Any]] | None = None, **swarm: Any
) -> Stand:
    """A round of four members that needs three contributions."""
    judges = (lambda _index, _model: 0.0) if "critic" in (plugins or {}) else None
    net = harness.Net(4, byzantine=1, plugins=plugins, options=swarm, validate=judges)
    kernel = net.machine(0).kernel
    kernel.enter(frozenset(net.ids))
    info = attrs.evolve(make_round_info(3), roster=net.ids, quorum=3)
    return Stand(net, LoneRound(kernel, info))


def judging(loss: Callable[[Vector], float]) -> HeldOut:
    return HeldOut(MODEL, loss)


# ── coming in ─────────────────────────────────────────────────────────────────────────────────────


def test_what_is_good_is_kept_with_its_weight_capped(harness: ModuleType) -> None:
    here = stand(harness, weight_cap=5)
    assert here.gives(2, weight=3) == ""
    assert here.gives(1, weight=7) == ""
    kept = here.lone.gathering.of_round(1).values()
    weights = {held.contribution.sender: held.contribution.weight for held in kept}
    assert weights == {here.net.ids[1]: 5, here.net.ids[2]: 3}


@pytest.mark.parametrize("payload", [b"", b"\x80", ContributionBody(1, SHORT).to_bytes()])
def test_what_is_no_contribution_is_held_against_its_sender(
    harness: ModuleType, payload: bytes
) -> None:
    here = stand(harness)
    refusal = here.lone.take(here.sent(1, payload))
    assert refusal is not None
    assert refusal.reason == Fault.MALFORMED_PAYLOAD
    assert here.facts() == [(1, str(Fault.MALFORMED_PAYLOAD))]
    assert not here.lone.gathering.of_round(1)


def test_what_no_plugin_sends_beside_an_update_is_refused(harness: ModuleType) -> None:
    here = stand(harness)
    assert here.gives(1, proofs={"odd": b"x"}) == Fault.MALFORMED_PAYLOAD
    assert here.gives(1) == ""  # the control


def test_a_bad_proof_is_refused_by_name(harness: ModuleType) -> None:
    here = stand(harness, {"checksum": {}})
    good = here.plugin("checksum").of(
        np.array(ROWS[1], dtype=np.int32), here.lone.info.model_digest
    )
    assert here.gives(1, proofs={"checksum": b"x"}) == "checksum:bad-proof"
    assert here.facts() == [(1, "checksum:bad-proof")]
    assert here.gives(1, proofs={"checksum": good}) == ""
    assert len(here.lone.gathering.of_round(1)) == 1


def test_a_second_contribution_is_a_fault_and_the_first_one_counts(harness: ModuleType) -> None:
    here = stand(harness)
    assert here.gives(1) == ""
    assert here.gives(1, [8, 8, 8]) == Fault.EQUIVOCATION
    assert here.facts() == [(1, str(Fault.EQUIVOCATION))]
    (held,) = here.lone.gathering.of_round(1).values()
    assert held.contribution.vector.tolist() == ROWS[1]


# ── the end ───────────────────────────────────────────────────────────────────────────────────────


def test_a_quorum_merges_and_is_praised(harness: ModuleType) -> None:
    here = stand(harness)
    for index in (2, 0, 1):
        assert here.gives(index) == ""
    assert here.lone.choose(None) == ()
    assert here.lone.lost == ""
    assert here.lone.senders == here.net.ids[:3]
    merged = here.lone.merge()
    assert merged.tolist() == [2, 5, 8]
    outcome = here.lone.closed(b"m" * 32, merged)
    assert (outcome.status, outcome.model_digest) == (RoundStatus.CLOSED, b"m" * 32)
    assert outcome.members == here.net.ids[:3]
    assert here.facts() == [(index, str(Merit.CONTRIBUTED)) for index in range(3)]


def test_fewer_than_a_quorum_are_not_merged(harness: ModuleType) -> None:
    here = stand(harness)
    here.gives(0)
    here.gives(1)
    here.lone.choose(None)
    assert here.lone.lost == "2 contributions, quorum 3"
    outcome = aborted(here.lone.info, here.lone.lost)
    assert (outcome.status, outcome.reason) == (RoundStatus.ABORTED, here.lone.lost)
    assert outcome.model_digest == here.lone.info.model_digest


def test_what_screening_finds_is_left_out_and_told(harness: ModuleType) -> None:
    here = stand(harness, {"critic": {}})
    for index in range(4):
        here.gives(index)
    found = here.lone.choose(judging(lambda vector: float(vector[0] == 9)))
    assert [(item.subject, item.fact) for item in found] == [(here.net.ids[3], "critic:harmful")]
    assert here.facts() == [(3, "critic:harmful")]
    assert here.lone.senders == here.net.ids[:3]
    assert here.lone.lost == ""


def test_plugins_that_cannot_screen_choose_nothing(harness: ModuleType) -> None:
    here = stand(harness, {"critic": {"broken": "screen"}})
    for index in range(4):
        here.gives(index)
    assert here.lone.choose(judging(lambda _vector: 0.0)) == ()
    assert here.lone.lost.startswith("screening refused: QRES-E701")
    assert here.lone.members == ()
    assert here.lone.kernel.rejections["kernel:not-screened-qres-e701"] == 1


def test_what_plugins_do_not_endorse_is_not_merged(harness: ModuleType) -> None:
    here = stand(harness, {"critic": {"screens": False}})
    for index in range(4):
        here.gives(index)
    here.lone.choose(judging(lambda _vector: 1.0))
    assert here.lone.lost == "critic:worse"


def test_what_cannot_be_judged_is_not_merged(harness: ModuleType) -> None:
    def fails(_updates: Any) -> Any:
        raise ZeroDivisionError("the rule")

    here = stand(harness, {"critic": {"screens": False}})
    for index in range(4):
        here.gives(index)
    kernel = here.lone.kernel
    rule = (("mean", fails),)
    kernel.calls.by_hook = {**kernel.calls.by_hook, "aggregate": rule, "screen": ()}
    here.lone.choose(judging(lambda _vector: 0.0))
    assert here.lone.lost.startswith("aggregation refused: QRES-E701")


def test_a_set_that_merges_to_nothing_says_why(harness: ModuleType) -> None:
    here = stand(harness)
    for index in range(3):
        here.gives(index)
    here.lone.choose(None)
    plain, told = here.lone.void("QRES-E508"), here.lone.void("QRES-E508", "of the rule")
    assert (plain.status, plain.code, plain.members) == (
        RoundStatus.VOID,
        "QRES-E508",
        here.net.ids[:3],
    )
    assert plain.reason.endswith("(QRES-E508)")
    assert told.reason == f"{plain.reason}: of the rule"
    assert here.facts() == []
