"""Faults are values: what they are, who may say them, and that no text decides anything."""

from __future__ import annotations

import re

import attrs
import pytest

from qres_core import ACCEPT, Accusation, Blame, Evidence, Fault, Merit, hookimpl, reject
from qres_core.contract import faults
from qres_core.errors import PluginError, ValueRefusedError
from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.intake import IDS
from qres_core.kernel.kernel import Kernel

NODE = bytes(32)
SWARM = {"name": "t", "nodes": 4, "byzantine": 0, "quorum": 3, "insecure": True}
SENTENCES = {
    "malformed: QRES-E401": ("frame-too-large", False),
    "malformed: QRES-E402": ("frame-malformed", False),
    "malformed: QRES-E403": ("frame-not-canonical", False),
    "malformed: QRES-E404": ("frame-field-invalid", False),
    "malformed: QRES-E405": ("frame-digest-mismatch", False),
    "malformed: QRES-E406": ("frame-version-unknown", False),
    "other swarm": ("other-swarm", False),
    "unknown sender": ("unknown-sender", True),
    "unknown authenticator": ("unknown-authenticator", False),
    "sequence of another key": ("sequence-of-other-key", False),
    "banned": ("banned", True),
    "replayed": ("replayed", False),
    "equivocation": ("equivocation", False),
    "malformed payload.*": ("malformed-payload", False),
    "unknown kind": ("unknown-kind", False),
    "unknown dialogue": ("unknown-dialogue", True),
    "addressed to another node": ("addressed-to-another", True),
    "unproven dialogue message": ("unproven-dialogue-message", False),
    "too many dialogue messages": ("too-many-dialogue-messages", False),
    "not the proposer": ("not-the-proposer", False),
    "set below quorum": ("set-below-quorum", False),
    "set names a stranger": ("set-names-stranger", False),
    "set of another round": ("set-of-other-round", False),
    "set names a banned node": ("set-names-banned", True),
    "set bends a standing": ("standing-bent", False),
    "unproven lock": ("unproven-lock", False),
    "unproven certificate": ("unproven-certificate", False),
    "unproven change": ("unproven-change", True),
    "unproven link": ("unproven-link", False),
    "other settings": ("other-settings", True),
    "unproven stop": ("unproven-stop", False),
    "unproven contribution": ("unproven-contribution", False),
    "wrong shard": ("wrong-shard", False),
    "no room": ("no-room", True),
    "another goal": ("other-goal", True),
}
"""The sentences of before, with the value of each, and whether nobody was blamed for it."""


def kernel() -> Kernel:
    config = parse({"swarm": SWARM, "plugins": {}}, source="test")
    solution = attrs.make_class("Solution", {"problems": attrs.field(default=())})()
    return Kernel([], config.swarm, solution=solution)


def test_every_sentence_of_before_has_its_value_and_blames_as_before() -> None:
    assert dict(SENTENCES.values()) == {fault.value: fault.own_view for fault in Fault}


@pytest.mark.parametrize("fault", Fault)
def test_who_is_blamed_follows_from_the_value(fault: Fault) -> None:
    refused = kernel().refuse(fault, Blame.SENDER, NODE, "kernel", 1)
    assert (refused.blame is Blame.NOBODY) is fault.own_view
    assert refused.subject == (None if fault.own_view else NODE)
    assert refused.reason is fault


def test_ids_are_distinct_and_a_plugin_cannot_have_the_same() -> None:
    values = [*Fault, *Merit]
    assert len({str(value) for value in values}) == len(values)
    assert all(":" not in value and faults.is_own_id(value) for value in values)
    for value in values:  # what a plugin calls alike is still its own
        assert faults.of_plugin("zk", str(value)) not in values


@pytest.mark.parametrize("fact", ["equivocation", "Bad proof!", "a:", ":a", "a:b:c", "kernel:x", 7])
def test_evidence_of_anything_else_is_refused_by_name(fact: str) -> None:
    assert Evidence(NODE, "zk:bad-proof", "zk", 1).against, "control"
    with pytest.raises(ValueRefusedError, match="QRES-E513"):
        Evidence(NODE, fact, "zk", 1)


@pytest.mark.parametrize("fact", [Fault.EQUIVOCATION, Merit.CONTRIBUTED, "other:bad", "Bad", "", 3])
def test_a_plugin_cannot_accuse_in_the_name_of_another(fact: str) -> None:
    with pytest.raises(ValueRefusedError, match="QRES-E513"):
        Accusation(NODE, fact)
    assert Accusation(NODE, "equivocation").fact == "equivocation", "control"
    evidence = kernel().intake.evidence("zk", Accusation(NODE, "equivocation"), 1)
    assert evidence.fact == "zk:equivocation"
    assert not isinstance(evidence.fact, Fault)


def test_a_reason_is_an_id() -> None:
    assert reject("bad-proof").reason == "bad-proof"
    assert not ACCEPT.reason
    with pytest.raises(ValueRefusedError, match="QRES-E513"):
        reject("bad proof")


def test_however_many_ids_a_plugin_makes_up_few_are_counted() -> None:
    one_node = kernel()
    for number in range(10 * IDS):
        one_node.refuse(f"of-peer-{number:x}", Blame.NOBODY, None, "careless", 1)
    assert len(one_node.rejections) == IDS + 1
    assert one_node.rejections["careless:other"] == 9 * IDS
    assert one_node.rejections["careless:of-peer-0"] == 1, "control: the first are told apart"


def test_texts_are_for_people_and_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {fault: kernel().refuse(fault, Blame.SENDER, NODE, "kernel", 1) for fault in Fault}
    for fault in Fault:
        assert re.fullmatch(r"[A-Z].*\.", faults.describe(fault))
        monkeypatch.setattr(fault, "text", "reworded")
    after = {fault: kernel().refuse(fault, Blame.SENDER, NODE, "kernel", 1) for fault in Fault}
    assert after == before
    assert faults.describe(Fault.BANNED) == "reworded", "control: the texts did change"


def test_a_local_plugin_may_not_be_called_as_the_kernel_is() -> None:
    made = attrs.make_class("Made", [], class_body={"observe": hookimpl(lambda _self: None)})
    for name in ("watch", "kernel", "a:b"):
        config = parse(
            {"swarm": SWARM, "plugins": {name: {}, "mean": {"unprotected": True}}}, source="test"
        )
        installed = {**scan(), name: Installed.local(name, made)}
        if name == "watch":
            assert "watch" in [item.name for item in assemble(config, installed)], "control"
            continue
        with pytest.raises(PluginError, match=r"QRES-E206.*is no name for a plugin"):
            assemble(config, installed)
