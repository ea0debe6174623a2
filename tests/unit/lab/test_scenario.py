"""What the ``[simulation]`` table refuses, and verdicts that are computed once for all nodes."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np
import pytest

from qres_core import ACCEPT, Claims, Contribution, Envelope, RoundInfo, Verdict, canonical, reject
from qres_core.attacks.scenario import Scenario
from qres_core.contract.errors import OptionError
from qres_core.errors import LabError
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.lab import once
from qres_core.lab.once import Once

INFO = RoundInfo("s", 3, bytes(32), 2, 0, (b"a" * 32, b"b" * 32), 1)


def config() -> Config:
    swarm = {"name": "s", "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    plugins = {"mean": {"unprotected": True}, "memory": {}}
    return parse({"swarm": swarm, "plugins": plugins}, source="test")


# ── the table ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("options", "code", "said", "fix"),
    [
        ({"attackers": 2}, "QRES-E105", "2 nodes attack, but simulation.attack is not set", "name"),
        ({"attack": "sign_flip"}, "QRES-E105", "is 0, and simulation.attack is 'sign_flip'", "1"),
        ({"attack": "sign_flop"}, "QRES-E801", "there is no attack 'sign_flop'", "sign_flip"),
    ],
)
def test_attackers_without_an_attack_and_the_other_way_round_are_refused(
    options: dict[str, Any], code: str, said: str, fix: str
) -> None:
    with pytest.raises(OptionError) as caught:
        Scenario(**options)
    assert code in str(caught.value)
    assert said in str(caught.value)
    assert fix in str(caught.value)


def test_an_attack_that_there_is_not_and_too_many_attackers_are_named_together() -> None:
    fits = Scenario(attack="sign_flip", attackers=1)
    assert list(fits.misfits(config().swarm)) == []
    wrong = list(Scenario(attack="sign_flop", attackers=9).misfits(config().swarm))
    assert [(problem.code, problem.where) for problem in wrong] == [
        ("QRES-E801", "simulation.attack"),
        ("QRES-E105", "simulation.attackers"),
    ]
    assert "sign_flip" in wrong[0].fix
    assert (wrong[1].what, wrong[1].fix) == (
        "9 attack, and swarm.nodes is 4",
        "simulation.attackers <= 4",
    )


# ── once ──────────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Judge:
    """A plugin of which only the class counts."""

    @property
    def claims(self) -> Claims:
        """None."""
        return Claims(tolerates=None)


@attrs.frozen
class Other(Judge):
    """Another class."""


def enabled(name: str = "judge", instance: Any = None) -> Enabled:
    made = Judge() if instance is None else instance
    return Enabled(name, Installed.local(name, type(made)), made, ("verify", "authenticate"))


class Asked:
    """Counts how often it is asked; answers what it is told to."""

    def __init__(self, *verdicts: Verdict) -> None:
        self.verdicts = verdicts
        self.seen: list[dict[str, Any]] = []

    def __call__(self, **arguments: Any) -> list[Any]:
        self.seen.append(arguments)
        return list(self.verdicts)


def sent(sender: bytes = b"a" * 32, value: int = 1) -> Contribution:
    vector = np.full(2, value, np.int32)
    return Contribution(sender, bytes([value]) * 32, vector, 1)


@pytest.mark.parametrize("name", ["judge", "judge.", "judge.screen", "judge.verify.all"])
def test_what_names_no_verdict_that_can_be_shared_is_refused(name: str) -> None:
    with pytest.raises(LabError, match=r"QRES-E105 simulation\.once.*aggregate, authenticate, "):
        Once(["judge.verify", name])


def test_a_plugin_that_is_not_enabled_is_refused() -> None:
    Once(["mean.verify"]).check(config())
    with pytest.raises(LabError, match=r"QRES-E105 simulation\.once.*no plugin 'zk' is enabled"):
        Once(["mean.verify", "zk.verify"]).check(config())


def test_an_acceptance_is_shared_and_every_other_question_is_asked() -> None:
    shared, asked = Once(["judge.verify"]), Asked(ACCEPT)
    first = shared.wrap(enabled(), "verify", asked)
    second = shared.wrap(enabled(), "verify", asked)
    for ask in (first, second):
        assert ask(contribution=sent(), round_info=INFO) == [ACCEPT]
    assert len(asked.seen) == 1
    first(contribution=sent(value=2), round_info=INFO)
    first(contribution=sent(b"b" * 32), round_info=INFO)
    first(contribution=sent(), round_info=attrs.evolve(INFO, number=4))
    shared.wrap(enabled(instance=Other()), "verify", asked)(contribution=sent(), round_info=INFO)
    assert len(asked.seen) == 5


def test_a_refusal_is_looked_at_by_every_node() -> None:
    asked = Asked(reject("bad-proof"))
    ask = Once(["judge.verify"]).wrap(enabled(), "verify", asked)
    for _node in range(3):
        assert ask(contribution=sent(), round_info=INFO) == [reject("bad-proof")]
    assert len(asked.seen) == 3


def test_a_signature_is_checked_once_for_each_message_and_signature() -> None:
    asked = Asked(ACCEPT)
    ask = Once(["judge.authenticate"]).wrap(enabled(), "authenticate", asked)
    payload = canonical.dumps(b"x")
    envelope = Envelope("s", "vote", 3, bytes(32), b"a" * 32, 5, 1, payload, {"sign": b"1"})
    for _node in range(3):
        assert ask(envelope=envelope, quoted=False) == [ACCEPT]
    assert len(asked.seen) == 1
    ask(envelope=envelope.with_auth({"sign": b"2"}), quoted=False)
    ask(envelope=attrs.evolve(envelope, sequence=6), quoted=False)
    assert len(asked.seen) == 3
    ask(envelope=envelope, quoted=True)  # it may be accepted in a quote alone
    assert len(asked.seen) == 4


def test_what_is_not_named_is_asked_as_before() -> None:
    shared, asked = Once(["judge.verify"]), Asked(ACCEPT)
    assert shared.wrap(enabled("other"), "verify", asked) is asked
    assert shared.wrap(enabled(), "authenticate", asked) is asked
    assert shared.wrap(enabled(), "aggregate", asked) is asked


def test_of_several_together_only_those_not_accepted_before_are_asked_about() -> None:
    shared = Once(["judge.verify"])
    contributions = (sent(value=1), sent(value=2), sent(value=3))
    shared.wrap(enabled(), "verify", Asked(ACCEPT))(contribution=sent(value=2), round_info=INFO)
    seen: list[tuple[int, ...]] = []

    def together(contributions: tuple[Contribution, ...], round_info: RoundInfo) -> list[Any]:
        assert round_info is INFO
        seen.append(tuple(int(contribution.vector[0]) for contribution in contributions))
        values = [int(contribution.vector[0]) for contribution in contributions]
        return [[ACCEPT if value == 1 else reject("bad-proof") for value in values]]

    ask = shared.wrap(enabled(), "verify_all", together)
    expected = [[ACCEPT, ACCEPT, reject("bad-proof")]]
    assert ask(contributions=contributions, round_info=INFO) == expected
    assert ask(contributions=contributions, round_info=INFO) == expected
    assert seen == [(1, 3), (3,)]
    assert ask(contributions=contributions[:2], round_info=INFO) == [[ACCEPT, ACCEPT]]
    assert len(seen) == 2


def test_the_oldest_acceptance_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "KEPT", 2)
    asked = Asked(ACCEPT)
    ask = Once(["judge.verify"]).wrap(enabled(), "verify", asked)
    for value in (1, 2, 3, 3, 2, 1):
        ask(contribution=sent(value=value), round_info=INFO)
    assert [int(seen["contribution"].vector[0]) for seen in asked.seen] == [1, 2, 3, 1]
