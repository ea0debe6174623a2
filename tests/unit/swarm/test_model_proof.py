"""A model is believed where a quorum of the roster decided it, and refused by name else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import ACCEPT, Blame, Envelope, Verdict, canonical, hookimpl, reject
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import ConfigError, ModelError, PluginError, QresError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.swarm.context.model_proof import Proof, _count, verify
from qres_core.swarm.ledger.messages import OUTCOME_PRECOMMIT, encode_conclusion
from qres_core.swarm.ledger.results import Conclusion, Merged, Result, Void
from qres_core.swarm.storage.model_file import SwarmModel

NODES = tuple(bytes([number]) * 32 for number in range(1, 5))
BARE = SwarmModel("lab", 7, 3, np.array([1, -2, 3], dtype=np.int32))
MERGED = Merged(BARE.digest)


def config(**changes: Any) -> Config:
    swarm: dict[str, Any] = {
        "name": "lab",
        "nodes": 4,
        "byzantine": 1,
        "quorum": 3,
        "scale": 3,
        "insecure": True,
        "roster": [node.hex() for node in NODES],
        **changes,
    }
    plugins = {"mean": {"unprotected": True}, "memory": {}}
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


def voucher(node: bytes, **changes: Any) -> Envelope:
    made = Envelope("lab", OUTCOME_PRECOMMIT, 2, b"p" * 32, node, 5, 1, says(), {"sign": node[:1]})
    return attrs.evolve(made, **changes)


def says(result: Result = MERGED, chosen: bytes = b"s" * 32) -> bytes:
    return encode_conclusion(Conclusion(chosen, result))


def signed(*vouchers: Envelope) -> SwarmModel:
    return attrs.evolve(BARE, vouchers=vouchers)


def fault(envelope: Envelope) -> str:
    """As a plugin that checks signatures: what was changed after signing does not hold."""
    right = envelope.auth.get("sign") == envelope.sender[:1] and envelope.sequence == 5
    return "" if right else "wrong signature (sign)"


THREE = tuple(voucher(node) for node in NODES[:3])


def test_the_votes_of_a_quorum_are_a_proof() -> None:
    assert _count(signed(*THREE), config(), fault) == Proof(7, BARE.digest, 3, 3, 4, 1)
    assert _count(signed(*THREE, voucher(NODES[3])), config(), fault).vouchers == 4


@pytest.mark.parametrize(
    ("nodes", "byzantine", "needed"), [(1, 0, 1), (3, 0, 2), (4, 0, 3), (4, 1, 3), (7, 2, 5)]
)
def test_one_vote_less_than_a_quorum_is_no_proof(nodes: int, byzantine: int, needed: int) -> None:
    ids = [bytes([number]) * 32 for number in range(1, nodes + 1)]
    read = config(
        nodes=nodes,
        byzantine=byzantine,
        quorum=max(1, nodes - byzantine),
        roster=[node.hex() for node in ids],
    )
    votes = tuple(voucher(node) for node in ids)
    assert _count(signed(*votes[:needed]), read, fault).needed == needed
    with pytest.raises(ModelError, match=f"{needed - 1} nodes voted for it, and {needed} of"):
        _count(signed(*votes[: needed - 1]), read, fault)


@pytest.mark.parametrize(
    ("vouchers", "said"),
    [
        (THREE[:1], "1 nodes voted for it, and 3 of 4 decide"),
        (THREE[:2], "2 nodes voted for it, and 3 of 4 decide"),  # more than f
        ((THREE[0], THREE[0]), "its certificate counts a node twice"),
        (
            (THREE[0], voucher(NODES[1], head=b"q" * 32)),
            "its votes are of different heights",
        ),
        ((*THREE[:2], voucher(NODES[2], round=3)), "of different attempts at one"),
        (
            (*THREE[:2], voucher(NODES[2], payload=says(chosen=b"t" * 32))),
            "about different sets of contributions",
        ),
        ((THREE[0], voucher(NODES[1], swarm="other")), "voted in another swarm, 'other'"),
        (
            (THREE[0], voucher(b"x" * 32)),
            f"{(b'x' * 8).hex()} voted for it and is not in the roster",
        ),
        ((THREE[0], voucher(NODES[1], kind="vote")), "signed a 'vote' message"),
        (
            (THREE[0], voucher(NODES[1], kind="outcome/prevote")),
            "signed a 'outcome/prevote' message, which decides nothing",
        ),
        (
            (THREE[0], voucher(NODES[1], payload=says(Merged(bytes(32))))),
            "voted for something else",
        ),
        ((THREE[0], voucher(NODES[1], payload=says(Void("QRES-E508")))), "for something else"),
        ((THREE[0], voucher(NODES[1], payload=encode_conclusion(None))), "for something else"),
        ((THREE[0], voucher(NODES[1], payload=canonical.dumps(BARE.digest))), "something else"),
        ((THREE[0], voucher(NODES[1], payload=b"\xff")), "voted for something else"),
        (
            (THREE[0], voucher(NODES[1], auth={"sign": b"?"})),
            "does not hold: wrong signature (sign)",
        ),
    ],
)
def test_what_does_not_decide_the_model_is_named(vouchers: tuple[Envelope, ...], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        _count(signed(*vouchers), config(), fault)
    assert caught.value.code == "QRES-E606"
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "lax",
    [
        lambda _envelope: "",
        lambda envelope: "" if envelope.auth else "unsigned",  # any signature will do
        lambda envelope: "" if envelope.sequence == 5 else "wrong",  # none is needed
    ],
)
def test_plugins_that_accept_what_nobody_signed_prove_nothing(
    lax: Callable[[Envelope], str],
) -> None:
    with pytest.raises(PluginError, match=r"QRES-E206.*accept unsigned messages"):
        _count(signed(*THREE), config(), lax)


@pytest.mark.parametrize(
    ("model", "changes", "error", "said"),
    [
        (signed(*THREE), {"roster": []}, ConfigError, r"QRES-E103 swarm\.roster.*does not list"),
        (
            attrs.evolve(signed(*THREE), swarm="other"),
            {},
            ModelError,
            "QRES-E606.*it is of the swarm 'other', the roster of 'lab'",
        ),
        (
            signed(*THREE),
            {"scale": 4},
            ModelError,
            r"QRES-E606.*its scale is 3, and swarm\.scale of the roster 4",
        ),
        (BARE, {}, ModelError, "QRES-E606.*it has no certificate: no node signed it"),
    ],
)
def test_a_model_that_is_not_the_roster_s_is_refused_before_any_signature(
    model: SwarmModel, changes: dict[str, Any], error: type[QresError], said: str
) -> None:
    with pytest.raises(error, match=said):
        verify(model, config(**changes), 0.0)


@pytest.mark.parametrize(("nodes", "byzantine"), [(4, 2), (3, 1), (6, 2)])
def test_a_roster_that_its_liars_could_outvote_is_refused(nodes: int, byzantine: int) -> None:
    roster = tuple((bytes([number]) * 32).hex() for number in range(nodes))
    swarm = attrs.evolve(config().swarm, nodes=nodes, byzantine=byzantine, roster=roster)
    said = f"QRES-E105.*{nodes} nodes cannot agree with {byzantine} liars"
    with pytest.raises(ConfigError, match=said):
        verify(signed(*THREE), attrs.evolve(config(), swarm=swarm), 0.0)


@attrs.frozen
class Signs:
    """A plugin that checks signatures."""

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return envelope.sender[:1]

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        return reject("wrong-signature", blame=Blame.LINK) if fault(envelope) else ACCEPT


def test_the_plugins_of_the_roster_tell_who_signed() -> None:
    read = config()
    read = attrs.evolve(read, plugins={**read.plugins, "sign": {}})
    found = {"sign": Signs, "mean": Mean, "memory": Memory}
    installed = {name: Installed.local(name, made) for name, made in found.items()}
    assert verify(signed(*THREE), read, 0.0, installed=installed).vouchers == 3
    forged = voucher(NODES[2], auth={"sign": b"?"})
    with pytest.raises(ModelError, match=r"does not hold: .*wrong signature"):
        verify(signed(*THREE[:2], forged), read, 0.0, installed=installed)
