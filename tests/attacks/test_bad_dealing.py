"""A liar in the dealing of shares: it withholds its messages, or deals what does not fit.

Thirteen whole nodes in the simulator, one of them a liar, with signatures, replay windows and
reputation. Rounds go on at the pace of a swarm whose liar follows the protocol, and what it dealt
is left out before anything is masked. In the controls the guard is taken away.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import attrs
import numpy as np
import pytest
from qres_lab.attacks import Withhold
from qres_lab.testing import sabotage
from qres_secagg import Secagg
from qres_secagg import client as client_module
from qres_secagg import plugin as secagg
from qres_secagg.board import SessionMessages
from qres_secagg.checks import Complaints
from qres_secagg.dealing import Dealer, Dealt
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.failure import Reason
from qres_secagg.messages import Kind
from qres_secagg.revelation import open_sums
from qres_secagg.shamir import ORDER, decode, encode
from qres_secagg.sharing import SEALED_BYTES

from qres_core import Evidence, RoundInfo, Update, hookimpl
from qres_core.attacks.sabotage import Outgoing, Saboteur
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.intake import Intake
from qres_core.lab.record import RoundRecord
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.messages import RELAYED
from qres_core.swarm.machine.dialogues import Dialogues
from qres_core.training.tasks import TaskConfig

NODES, ROUNDS, PATIENCE = 13, 5, 1.0
TASK = TaskConfig(name="quadratic", dimension=20, learning_rate=0.2)
LONG = pytest.mark.long
LIED = f"secagg:{Reason.BAD_SHARES}"
EARLY = tuple(f"dialogue/secagg/{int(kind)}" for kind in (Kind.ADVERTISE, Kind.SHARE))


def config(*, reputation: bool = True) -> Config:
    table = {
        "name": "dealing", "nodes": NODES, "byzantine": 1, "quorum": (NODES + 1) // 2 + 1,
        "deadline": 6.0, "vote_timeout": 1.0,
    }  # fmt: skip
    plugins: dict[str, Any] = {
        "memory": {}, "ed25519": {}, "replay": {},
        **({"reputation": {"exponent": 0}} if reputation else {}),
        "secagg": {"bound": 64.0, "patience": PATIENCE}, "mean": {"unprotected": True},
    }  # fmt: skip
    return parse({"swarm": table, "plugins": plugins}, source="test")


class StopPlayingError(Exception):
    """Enough was seen."""


@attrs.frozen
class Seen:
    """What a swarm came to."""

    records: tuple[RoundRecord, ...]
    seconds: float  # on its own clock, for as many models as were asked for
    facts: Mapping[bytes, Counter[str]]  # what nodes held against a member

    @property
    def closed(self) -> list[RoundRecord]:
        return [record for record in self.records if record.closed]


def play(
    patch: pytest.MonkeyPatch,
    kind: type[Secagg] = Secagg,
    *,
    rounds: int = ROUNDS,
    reputation: bool = True,
    attack: str = "sign_flip",
) -> Seen:
    """The last node runs ``kind`` instead of the plugin; twice as many rounds at most."""
    records: list[RoundRecord] = []
    facts: dict[bytes, Counter[str]] = {}
    observe = Intake.observe

    def noted(self: Intake, evidence: Evidence) -> None:
        if evidence.source == "secagg":
            facts.setdefault(evidence.subject, Counter())[str(evidence.fact)] += 1
        observe(self, evidence)

    def progress(record: RoundRecord) -> None:
        records.append(record)
        if len(records) == 2 * rounds:
            raise StopPlayingError

    scenario = Scenario(
        rounds=rounds, seed=0, attack=attack, attackers=1, lies="protocol",
        once=("ed25519.authenticate",),
    )  # fmt: skip
    patch.setattr(Intake, "observe", noted)
    seconds = math.inf
    with contextlib.suppress(StopPlayingError):
        seconds = simulate(
            config(reputation=reputation),
            scenario,
            task=TASK,
            hostile=lambda _number: {"secagg": Installed.local("secagg", kind)},
            progress=progress,
        ).virtual_seconds
    return Seen(tuple(records), seconds, facts)


@pytest.fixture(name="control", scope="module")
def _control() -> Seen:
    with pytest.MonkeyPatch.context() as patch:
        result = play(patch)
    assert len(result.closed) == len(result.records) == ROUNDS
    assert not result.facts
    return result


# ── withholding ───────────────────────────────────────────────────────────────────────────────


def withholder(heard_by: Callable[[int, int], bool]) -> Callable[[], Saboteur]:
    """A liar whose advert and shares reach some nodes only: by place in the roster and round.

    It hands on no message either.
    """

    def tells(message: Outgoing) -> bool:
        early = message.kind.startswith(EARLY) or message.kind == RELAYED
        return not early or heard_by(message.place, message.round)

    return lambda: Withhold(tells=tells)


HEARD: Mapping[str, Callable[[int, int], bool]] = {
    "the leader alone": lambda place, number: place == number % NODES,
    "all but every third": lambda place, number: place == number % NODES or place % 3 != 1,
}


@pytest.mark.claim("C-secagg-20")
@LONG
@pytest.mark.parametrize("heard_by", HEARD.values(), ids=HEARD)
def test_who_withholds_its_messages_is_heard_through_others(
    monkeypatch: pytest.MonkeyPatch, control: Seen, heard_by: Callable[[int, int], bool]
) -> None:
    with sabotage(withholder(heard_by)) as attack:
        result = play(monkeypatch, attack=attack)
    assert len(result.closed) >= 0.8 * len(control.closed)
    assert len(result.records) == ROUNDS
    assert all(record.accepted == NODES for record in result.records)
    # It costs the time in which messages are handed on, and less than a patience.
    assert result.seconds < control.seconds + ROUNDS * PATIENCE


@pytest.mark.control("C-secagg-20")
@LONG
@pytest.mark.parametrize("checked", [True, False])
def test_where_nobody_hands_it_on_it_is_left_out(
    monkeypatch: pytest.MonkeyPatch, *, checked: bool
) -> None:
    """Without the acks each leader in turn lists it, and too few others can take part."""
    if not checked:
        monkeypatch.setattr(SessionMessages, "_unchecked", lambda *_: [])
    monkeypatch.setattr(Dialogues, "_relay", lambda *_: None)
    with sabotage(withholder(lambda place, number: (place - number) % NODES < 6)) as attack:
        result = play(monkeypatch, rounds=2, attack=attack)
    assert len(result.closed) == (2 if checked else 0)
    for record in result.closed:
        assert (record.accepted, record.attackers_accepted) == (NODES - 1, 0)


# ── dealing badly ─────────────────────────────────────────────────────────────────────────────


class DealsBadly(Secagg):
    """It seals garbage for everybody, or shares that do not belong together."""

    lie: ClassVar[str] = ""
    own: ClassVar[dict[int, tuple[bytes, bytes]]] = {}  # itself and its seed, by round

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Any:
        opened: Any = Secagg.round_opened(self, round_info)
        client = opened.own._client
        honest = client.share

        def share() -> bytes:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(client_module, *LIES[self.lie])
                body: bytes = honest()
            self.own[round_info.number] = client.me, client._seed
            return body

        client.share = share
        return opened


def garbage(_key: bytes, _sid: bytes, _seed: bytes, _mask: bytes) -> bytes:
    return bytes(SEALED_BYTES)


class OffThePolynomial(Dealer):
    def deal(self, holder: int) -> Dealt:
        dealt = super().deal(holder)
        wrong = encode((7 * decode(dealt.seed) + holder * holder) % ORDER)
        return dealt if holder == self._rank else attrs.evolve(dealt, seed=wrong)


class SealsGarbage(DealsBadly):
    lie = "garbage"


class DealsOff(DealsBadly):
    lie = "off"


LIES: Mapping[str, tuple[str, Any]] = {
    "garbage": ("seal", garbage),
    "off": ("Dealer", OffThePolynomial),
}


@pytest.mark.claim("C-secagg-19")
@LONG
@pytest.mark.parametrize("kind", [SealsGarbage, DealsOff])
@pytest.mark.parametrize("reputation", [True, False])
def test_who_deals_badly_is_left_out_before_anything_is_masked(
    monkeypatch: pytest.MonkeyPatch, control: Seen, kind: type[Secagg], *, reputation: bool
) -> None:
    """Every round closes without it, and every honest node holds the proven lie against it."""
    result = play(monkeypatch, kind, reputation=reputation)
    assert len(result.closed) >= 0.8 * len(control.closed)
    assert len(result.records) == ROUNDS
    for record in result.records:
        assert (record.accepted, record.attackers_accepted) == (NODES - 1, 0)
    (facts,) = result.facts.values()  # of one member alone
    assert set(facts) == {LIED}
    assert facts[LIED] >= NODES - 1
    if reputation:
        assert result.records[-1].banned_attackers == 1
        assert result.records[-1].banned_honest == 0


@pytest.mark.control("C-secagg-19")
@LONG
def test_unchecked_it_alone_would_open_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above: nobody asks for acks, and complaints are not heard."""
    sums: list[bool] = []
    plain: dict[bytes, np.ndarray] = {}
    masked, finish = secagg.masked, SecaggDialogue._finish

    def masking(update: Update, dialogue: SecaggDialogue, **options: Any) -> Update:
        if dialogue.session.round == 1:
            plain[dialogue._me] = update.vector.astype(np.int64)
        return masked(update, dialogue, **options)

    def finishing(self: SecaggDialogue) -> None:
        finish(self)
        liar, seed = DealsBadly.own.get(self.session.round, (b"", b""))
        opening = self.board.opening
        if self._me == liar and opening is not None and opening.missing <= 1 and not sums:
            assert self._agreed is not None
            opening._secrets[self.session.rank[liar]] = seed
            (found,) = open_sums(self.board, self.inputs(self._agreed))
            expected = np.sum([plain[member] for member in found.members], axis=0)
            sums.append(len(found.members) == NODES and np.array_equal(found.total, expected))

    monkeypatch.setattr(secagg, "masked", masking)
    monkeypatch.setattr(SecaggDialogue, "_finish", finishing)
    monkeypatch.setattr(SessionMessages, "_unchecked", lambda *_: [])
    monkeypatch.setattr(Complaints, "take", lambda *_: False)
    result = play(monkeypatch, DealsOff, rounds=1)
    assert not result.records[0].closed
    assert sums == [True]
