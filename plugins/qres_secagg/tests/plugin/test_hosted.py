"""Sums where one coordinator hands messages on, and what it can do if it lies."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import qres_hosting as hosting
from qres_secagg import hosted
from qres_secagg.client import Client
from qres_secagg.hosted import ClientSession
from qres_secagg.messages import Kind

from qres_core import Envelope, RoundStatus, Update, canonical
from qres_core.errors import CompatibilityError, RoundError, WireError

SIZE = 7
MODEL, OTHER = bytes(32), bytes([1]) * 32
TABLE = """
[swarm]
name = "hosted"
nodes = {nodes}
byzantine = {byzantine}
quorum = {quorum}

[node]
data_dir = "{folder}"

[plugins.ed25519]

[plugins.replay]

{plugins}
"""
SUMS = "[plugins.secagg]\n\n[plugins.mean]"
Change = Callable[[int, bytes], bytes | None]
"""What becomes of a turn on its way to a client, by its index."""


def same(_client: int, asked: bytes) -> bytes:
    return asked


@attrs.define(eq=False)
class Ends:
    """A coordinator and clients that are made afresh for each message, as processes are."""

    host: hosting.Host
    folder: Path
    coordinator: hosting.Coordinator
    refusals: list[str] = attrs.field(factory=list[str])
    told: bytes = b""
    turns: list[bytes] = attrs.field(factory=list[bytes])  # as the coordinator asked
    answers: dict[tuple[int, int], tuple[bytes, ...]] = attrs.field(
        factory=dict[tuple[int, int], tuple[bytes, ...]]
    )

    @classmethod
    def of(
        cls,
        folder: Path,
        plugins: str = SUMS,
        *,
        nodes: int = 5,
        byzantine: int = 0,
        quorum: int = 4,
    ) -> Ends:
        text = TABLE.format(
            nodes=nodes,
            byzantine=byzantine,
            quorum=quorum,
            folder=folder / "data",
            plugins=plugins,
        )
        (folder / "qres.toml").write_text(text, "utf-8")
        host = hosting.Host.read(folder / "qres.toml", seed=1)
        return cls(host, folder / "data", hosting.Coordinator(host))

    @property
    def nodes(self) -> range:
        return range(self.host.config.swarm.nodes)

    def database(self, client: int) -> Path:
        return self.folder / f"client-{client}" / "dialogues.sqlite"

    def asked(self, client: int, turn: bytes) -> tuple[bytes, ...]:
        with hosting.HostedClient(self.host, client) as made:
            return made.converse(turn)

    def talk(self, clients: Iterable[int], change: Change = same) -> None:
        """Turns until there is nothing to be said."""
        chosen = list(clients)
        while (asked := self.coordinator.asks()) is not None:
            for client in chosen:
                turn = change(client, asked)
                if turn is None:
                    continue
                try:
                    frames = self.asked(client, turn)
                except RoundError as error:
                    self.refusals.append(str(error.problems[0]))
                    continue
                self.answers[client, len(self.turns)] = frames
                for frame in frames:
                    self.coordinator.take(frame, b"%d" % client)
            self.turns.append(asked)

    def begin(self, model: bytes = MODEL) -> None:
        self.told = self.coordinator.begin(model, SIZE).to_bytes()

    def train(self, clients: Iterable[int], model: bytes = MODEL) -> None:
        for client in clients:
            self.coordinator.take(self.given(client, model), b"%d" % client)

    def given(self, client: int, model: bytes = MODEL) -> bytes:
        with hosting.HostedClient(self.host, client) as made:
            made.begin(self.told, model, SIZE)
            return made.contribute(Update(value(client)))

    def decided(self, clients: Collection[int], model: bytes = MODEL) -> None:
        """A round up to the set, which nobody was told yet."""
        self.begin(model)
        self.talk(clients)
        self.train(clients, model)
        self.coordinator.decide()

    def round(self, clients: Collection[int], model: bytes = MODEL) -> hosting.HostedResult:
        self.decided(clients, model)
        self.talk(clients)
        return self.coordinator.close()


def value(client: int) -> Any:
    return np.arange(SIZE, dtype=np.int32) + np.int32(1000 * (client + 1))


def mean(clients: Collection[int]) -> list[int]:
    """The oracle: halves do not occur."""
    return [sum(int(value(each)[at]) for each in clients) // len(clients) for at in range(SIZE)]


def found(result: hosting.HostedResult) -> list[int]:
    assert result.merged is not None, result.outcome.reason
    return [int(each) for each in result.merged]


def kinds(frames: Iterable[bytes]) -> list[int]:
    """The steps that some messages are of."""
    return [int(Envelope.from_bytes(frame, max_bytes=2**20).kind.split("/")[2]) for frame in frames]


@pytest.fixture
def ends(tmp_path: Path) -> Ends:
    return Ends.of(tmp_path)


def test_the_sum_is_the_plain_sum_and_no_input_is_seen(ends: Ends) -> None:
    ends.begin()
    ends.talk(ends.nodes)
    sent = [ends.given(client) for client in ends.nodes]
    for client, frame in enumerate(sent):
        assert value(client).tobytes() not in frame
        ends.coordinator.take(frame, b"%d" % client)
    ends.coordinator.decide()
    ends.talk(ends.nodes)
    assert found(ends.coordinator.close()) == mean(ends.nodes)
    assert not ends.refusals


@pytest.mark.parametrize("away", range(5))
def test_whoever_leaves_before_training_is_left_out(ends: Ends, away: int) -> None:
    """Whoever it is: one of them has the turn to list."""
    ends.begin()

    def gone(client: int, asked: bytes) -> bytes | None:
        return None if client == away and len(ends.turns) >= 3 else asked

    ends.talk(ends.nodes, gone)
    rest = [client for client in ends.nodes if client != away]
    ends.train(rest)
    ends.coordinator.decide()
    ends.talk(rest)
    assert found(ends.coordinator.close()) == mean(rest)


def test_whoever_leaves_after_training_is_in_the_sum(ends: Ends) -> None:
    ends.decided(ends.nodes)
    ends.talk([0, 1, 3, 4])
    assert found(ends.coordinator.close()) == mean(ends.nodes)


def test_too_few_to_open_a_sum_make_no_model(ends: Ends) -> None:
    ends.decided(ends.nodes)
    ends.talk([0, 1])
    result = ends.coordinator.close()
    assert result.merged is None
    assert result.outcome.status is RoundStatus.VOID


# ── a step is taken once ──────────────────────────────────────────────────────────────────────


def test_a_turn_that_comes_twice_is_answered_by_the_same_bytes(ends: Ends) -> None:
    ends.begin()
    ends.talk(ends.nodes)
    for number, asked in enumerate(ends.turns):
        if number:  # in an experiment the first begins the round again
            assert ends.asked(2, asked) == ends.answers[2, number]


def test_another_question_in_a_turn_gets_no_answer(ends: Ends) -> None:
    ends.begin()
    ends.talk(ends.nodes)
    turn = hosting.HostedTurn.from_bytes(ends.turns[1], 5)
    with pytest.raises(RoundError, match="asked something else") as error:
        ends.asked(2, attrs.evolve(turn, frames=turn.frames[:4]).to_bytes())
    assert error.value.code == "QRES-E604"
    ahead = attrs.evolve(turn, number=len(ends.turns) + 1).to_bytes()
    with pytest.raises(RoundError, match="has answered"):
        ends.asked(2, ahead)


def test_an_update_is_given_once(ends: Ends) -> None:
    ends.begin()
    ends.talk(ends.nodes)
    ends.given(0)
    with pytest.raises(RoundError, match="did not come to where"):
        ends.given(0)


def test_who_was_not_there_at_the_beginning_gives_no_update(ends: Ends) -> None:
    ends.begin()
    ends.talk([0, 1, 2, 3])
    with pytest.raises(RoundError, match="not there at the beginning"):
        ends.given(4)


def test_the_secret_is_forgotten_when_there_is_nothing_more_to_say(ends: Ends) -> None:
    ends.begin()
    ends.talk(ends.nodes)
    ends.train(ends.nodes)
    assert secret_of(ends, 0)
    ends.coordinator.decide()
    ends.talk(ends.nodes)
    assert not secret_of(ends, 0)
    turn = hosting.HostedTurn.from_bytes(ends.turns[-1], 5)
    after = attrs.evolve(turn, number=len(ends.turns)).to_bytes()
    with pytest.raises(RoundError, match="nothing more to say"):
        ends.asked(0, after)


def secret_of(ends: Ends, client: int) -> bytes:
    with closing(sqlite3.connect(ends.database(client))) as database:
        (secret,) = database.execute("SELECT secret FROM round").fetchone()
        return bytes(secret)


KILLED = """
import os, signal, sys
from pathlib import Path
import qres_hosting as hosting
from qres_core.contract.stores import PrivateDatabase
from qres_hosting.retold import Retold

settings, turn, at, empties = sys.argv[1:]
calls, plain = [], PrivateDatabase.empty_log

def empty_log(database):
    calls.append(database)
    if str(len(calls)) == at:
        os.kill(os.getpid(), signal.SIGKILL)
    if empties == "empties":
        plain(database)

def answered(*_turn):
    os.kill(os.getpid(), signal.SIGKILL)

PrivateDatabase.empty_log = empty_log
if at == "asked":
    Retold.answered = answered
with hosting.HostedClient(hosting.Host.read(Path(settings), seed=1), 0) as made:
    made.converse(Path(turn).read_bytes())
"""


def killed(ends: Ends, turn: bytes, at: str, empties: str = "empties") -> bytes:
    """All that is in a client's folder, once its process was killed.

    ``at``: the call that empties the log before which it is killed; ``"asked"``: it is killed where
    it looks what it answered before, with the file open.
    """
    asked = ends.folder.parent / "turn"
    asked.write_bytes(turn)
    command = [sys.executable, "-P", "-c", KILLED, str(ends.folder.parent / "qres.toml")]
    process = subprocess.run([*command, str(asked), at, empties], check=False)
    assert process.returncode == -signal.SIGKILL
    folder = ends.database(0).parent
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())


@pytest.mark.skipif(os.name != "posix", reason="a process is killed as POSIX does it")
def test_a_client_that_is_killed_twice_leaves_no_secret(ends: Ends) -> None:
    """The second kill comes where the file is open again, long before it is closed in order.

    The controls: killed once, before the log is emptied, it leaves the secret of the round. So
    does a second process that does not empty the log as it opens the file.
    """
    ends.begin()
    ends.talk(ends.nodes)
    ends.train(ends.nodes)
    secret = secret_of(ends, 0)
    ends.coordinator.decide()
    here, before = ends.database(0).parent, ends.folder / "before"
    last = b""

    def keep(client: int, asked: bytes) -> bytes:
        """The folder as it was before the turn after which the client has nothing more to say."""
        nonlocal last
        if client == 0 and secret_of(ends, 0):
            shutil.rmtree(before, ignore_errors=True)
            shutil.copytree(here, before)
            last = asked
        return asked

    ends.talk(ends.nodes, keep)
    assert not secret_of(ends, 0)
    shutil.rmtree(here)
    before.rename(here)
    opening, over = "1", "2"
    assert secret in killed(ends, last, over), "control: killed once"
    assert secret in killed(ends, last, opening), "control: killed before it could"
    assert secret in killed(ends, last, "asked", "does not"), "control: it does not empty it"
    assert secret not in killed(ends, last, "asked")
    assert not secret_of(ends, 0)


# ── a coordinator that lies ───────────────────────────────────────────────────────────────────


def without(asked: bytes, sender: bytes) -> bytes:
    """The same turn, with a set that lacks a member."""
    turn = hosting.HostedTurn.from_bytes(asked, 5)
    if not turn.summaries:
        return asked
    named, *entries = canonical.loads(turn.summaries["secagg"], max_bytes=2**20)
    left = [entry for entry in entries if entry[:32] != sender]
    return attrs.evolve(turn, summaries={"secagg": canonical.dumps([named, *left])}).to_bytes()


def opened(ends: Ends) -> list[int]:
    """Which clients opened shares."""
    return [
        client for (client, _turn), frames in ends.answers.items() if Kind.UNMASK in kinds(frames)
    ]


def two_stories(ends: Ends, listeners: Collection[int]) -> None:
    """Two are told that one client is not in the set, and the others that it is."""
    ends.decided(ends.nodes)
    target = ends.coordinator.host.config.swarm.roster[4]

    def lying(client: int, asked: bytes) -> bytes:
        return without(asked, bytes.fromhex(target)) if client < 2 else asked

    ends.talk(listeners, lying)


@pytest.mark.claim("C-flower-7")
def test_two_survivor_sets_open_nothing(ends: Ends) -> None:
    """With shares of both kinds the update of the client in question would lie open."""
    two_stories(ends, [0, 1, 2, 3])
    assert opened(ends) == []
    assert ends.coordinator.close().merged is None


@pytest.mark.claim("C-flower-7")
def test_of_two_survivor_sets_at_most_one_is_opened(ends: Ends) -> None:
    """Three of five signed the same one."""
    two_stories(ends, [0, 1, 2, 3, 4])
    assert sorted(opened(ends)) == [2, 3, 4]
    assert found(ends.coordinator.close()) == mean(ends.nodes)


@pytest.mark.control("C-flower-7")
def test_without_the_signed_quorum_both_sets_are_opened(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: shares of both secrets of one client leave the others."""
    monkeypatch.setattr("qres_secagg.board.SessionMessages.quorum", 1)
    two_stories(ends, [0, 1, 2, 3])
    assert sorted(opened(ends)) == [0, 1, 2, 3]


@pytest.mark.claim("C-flower-7")
def test_for_one_model_no_second_set_is_opened(ends: Ends) -> None:
    """The difference of the two sums would be an update."""
    assert found(ends.round([0, 1, 2, 3, 4])) == mean(ends.nodes)
    again = ends.round([0, 1, 2, 3])
    assert again.merged is None
    assert found(ends.round([0, 1, 2, 3, 4])) == mean(ends.nodes)  # the same set tells nothing
    assert found(ends.round([0, 1, 2, 3], OTHER)) == mean([0, 1, 2, 3])


@pytest.mark.control("C-flower-7")
def test_without_that_memory_the_difference_of_two_sums_is_an_update(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""

    def forgetful(_self: ClientSession, _entry: bytes) -> bool:
        return True

    monkeypatch.setattr(ClientSession, "may_state", forgetful)
    whole = found(ends.round([0, 1, 2, 3, 4]))
    less = found(ends.round([0, 1, 2, 3]))
    learned = [5 * a - 4 * b for a, b in zip(whole, less, strict=True)]
    assert np.abs(np.array(learned) - value(4)).max() <= 5  # but for what a mean rounds


@pytest.mark.parametrize(("members", "sums"), [(5, 1), (7, 2)])
def test_a_limit_after_members_are_added_one_model_may_be_summed_twice(
    tmp_path: Path, members: int, sums: int
) -> None:
    """Three of five signed the first set. Four of seven sign another, and none of them did."""
    first = Ends.of(tmp_path)
    first.begin()
    first.talk(first.nodes)
    first.train(first.nodes)
    first.coordinator.decide()
    first.talk([0, 1, 2])  # the others hear of no set
    whole = found(first.coordinator.close())
    first.coordinator.stop()
    grown = Ends.of(tmp_path, nodes=members)
    grown.begin()
    grown.talk(grown.nodes)
    grown.train([1, 2, 3, 4])
    grown.coordinator.decide()
    grown.talk(grown.nodes)
    result = grown.coordinator.close()
    assert 1 + (result.merged is not None) == sums
    if result.merged is not None:
        learned = [5 * a - 4 * b for a, b in zip(whole, found(result), strict=True)]
        assert np.abs(np.array(learned) - value(0)).max() <= 5  # but for what a mean rounds


def made_up(ends: Ends) -> None:
    """All are told a set of inputs that nobody gave."""
    ends.decided(ends.nodes)

    def lying(_client: int, asked: bytes) -> bytes:
        turn = hosting.HostedTurn.from_bytes(asked, 5)
        if not turn.summaries:
            return asked
        named, *entries = canonical.loads(turn.summaries["secagg"], max_bytes=2**20)
        junk = canonical.dumps([named, *(each[:32] + bytes(32) for each in entries)])
        return attrs.evolve(turn, summaries={"secagg": junk}).to_bytes()

    ends.talk(ends.nodes, lying)


def remembered(ends: Ends, client: int) -> int:
    with closing(sqlite3.connect(ends.database(client))) as database:
        (count,) = database.execute("SELECT COUNT(*) FROM kept").fetchone()
        return int(count)


@pytest.mark.claim("C-flower-7")
def test_of_a_set_that_is_refused_nothing_is_remembered(ends: Ends) -> None:
    """A coordinator could fill the memory with models that it makes up."""
    made_up(ends)
    assert remembered(ends, 1) == 0


@pytest.mark.control("C-flower-7")
def test_if_it_were_noted_first_it_would_be(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control."""

    def anything(_self: Client, _inputs: object) -> None:
        return None

    monkeypatch.setattr(Client, "expect_statable", anything)
    made_up(ends)
    assert remembered(ends, 1) == 1


def second_set_after_others(ends: Ends) -> hosting.HostedResult:
    """A sum of one model, one of another, and then a sum of fewer for the first."""
    assert found(ends.round([0, 1, 2, 3, 4])) == mean(ends.nodes)
    ends.turns.clear()
    ends.round([0, 1, 2, 3, 4], OTHER)
    ends.turns.clear()
    return ends.round([0, 1, 2, 3])


@pytest.mark.claim("C-flower-7")
def test_other_models_do_not_make_a_client_forget_a_set(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qres_hosting.retold.MOST_KEPT", 1)
    assert second_set_after_others(ends).merged is None
    assert any("QRES-E602" in each and "new key" in each for each in ends.refusals)


@pytest.mark.control("C-flower-7")
def test_if_the_oldest_were_forgotten_they_would(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""

    def forgetful(self: Any, key: bytes, value: bytes) -> bytes:
        with self._db.transaction():
            self._db.execute("DELETE FROM kept WHERE name != ?", (key,))
            self._db.execute("INSERT OR IGNORE INTO kept (name, value) VALUES (?, ?)", (key, value))
            return bytes(self._db.one("SELECT value FROM kept WHERE name = ?", key))

    monkeypatch.setattr("qres_hosting.retold.Retold.first", forgetful)
    assert found(second_set_after_others(ends)) == mean([0, 1, 2, 3])


def grouped_otherwise(folder: Path) -> hosting.HostedResult:
    """A sum of eight, and then sums of groups of the same eight for the same model."""
    together = "[plugins.secagg]\nmin_size = 3\n\n[plugins.mean]"
    groups = together.replace("min_size", "group_size = 4\nmin_size")
    first = Ends.of(folder, together, nodes=8, quorum=7)
    assert found(first.round(first.nodes)) == mean(first.nodes)
    first.coordinator.stop()
    second = Ends.of(folder, groups, nodes=8, quorum=7)
    return second.round(second.nodes)


@pytest.mark.claim("C-flower-7")
def test_for_one_model_the_same_set_is_not_opened_in_other_groups(tmp_path: Path) -> None:
    """A client whose group is too small to be opened is in the first sum and in none of these."""
    assert grouped_otherwise(tmp_path).merged is None


@pytest.mark.control("C-flower-7")
def test_if_the_set_alone_were_remembered_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(hosted, "parameter_bytes", lambda _parameters: b"")
    assert grouped_otherwise(tmp_path).merged is not None


def smaller(folder: Path) -> Ends:
    """A quorum of five, and a coordinator that names a set of four to all of them."""
    ends = Ends.of(folder, quorum=5)
    ends.decided(ends.nodes)
    target = bytes.fromhex(ends.host.config.swarm.roster[4])
    ends.talk(ends.nodes, lambda _client, asked: without(asked, target))
    return ends


@pytest.mark.claim("C-flower-7")
def test_a_set_below_the_quorum_is_not_opened(tmp_path: Path) -> None:
    """Noise that members share would be less than what is counted."""
    assert opened(smaller(tmp_path)) == []


@pytest.mark.control("C-flower-7")
def test_if_clients_did_not_count_it_would_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(ClientSession, "least", property(lambda _: 0, lambda _self, _least: None))
    assert sorted(opened(smaller(tmp_path))) == [0, 1, 2, 3, 4]


def test_a_set_with_somebody_who_is_on_no_list_is_refused(ends: Ends) -> None:
    """Else a set of one name could be of other inputs another time."""
    ends.decided([0, 1, 2, 3])
    identities = [bytes.fromhex(each) for each in ends.host.config.swarm.roster]

    def more(_client: int, asked: bytes) -> bytes:
        turn = hosting.HostedTurn.from_bytes(asked, 5)
        if not turn.summaries:
            return asked
        named, *entries = canonical.loads(turn.summaries["secagg"], max_bytes=2**20)
        (absent,) = set(identities) - {entry[:32] for entry in entries}
        all_of = sorted([*entries, absent + bytes(32)])
        return attrs.evolve(
            turn, summaries={"secagg": canonical.dumps([named, *all_of])}
        ).to_bytes()

    ends.talk([0, 1, 2, 3], more)
    assert opened(ends) == []


def test_what_was_changed_on_the_way_counts_for_nothing(ends: Ends) -> None:
    """Keys that the coordinator put in the place of a client's: it could read all shares."""
    ends.begin()

    def forged(client: int, asked: bytes) -> bytes:
        turn = hosting.HostedTurn.from_bytes(asked, 5)
        if client != 0 or turn.number != 1:
            return asked
        read = [Envelope.from_bytes(frame, max_bytes=2**20) for frame in turn.frames]
        body = bytearray(read[1].payload)
        body[-1] ^= 1
        changed = attrs.evolve(read[1], payload=bytes(body)).to_bytes()
        frames = (turn.frames[0], changed, *turn.frames[2:])
        return attrs.evolve(turn, frames=frames).to_bytes()

    ends.talk(ends.nodes, forged)
    shares = [frames for (client, turn), frames in ends.answers.items() if (client, turn) == (0, 1)]
    assert kinds(shares[0]) == [Kind.SHARE]
    # What it dealt names all holders but that one.
    whole = sum(map(len, ends.answers[1, 1]))
    assert sum(map(len, shares[0])) < whole


@pytest.mark.parametrize(
    "summary",
    [b"", b"\x80", canonical.dumps([b"short"]), canonical.dumps([bytes(32), bytes(63)]), b"\xff"],
)
def test_a_set_that_cannot_be_read_is_none(ends: Ends, summary: bytes) -> None:
    ends.decided(ends.nodes)

    def unreadable(_client: int, asked: bytes) -> bytes:
        turn = hosting.HostedTurn.from_bytes(asked, 5)
        return attrs.evolve(turn, summaries={"secagg": summary}).to_bytes()

    ends.talk(ends.nodes, unreadable)
    assert opened(ends) == []


def entry(sender: int) -> bytes:
    return bytes([sender]) * 32 + bytes(32)


@pytest.mark.parametrize(
    "odd",
    [
        7,
        {},
        [],
        ["x" * 32],
        [bytes(31)],
        [bytes(32), "x" * 64],
        [bytes(32), bytes(65)],
        [bytes(32), entry(2), entry(1)],
        [bytes(32), entry(1), entry(1)],
    ],
)
def test_the_form_of_a_set_is_looked_at(odd: Any) -> None:
    good = canonical.dumps([bytes(32), entry(1), entry(2)])
    assert hosted._read(good)[1] == {entry(1)[:32]: bytes(32), entry(2)[:32]: bytes(32)}
    with pytest.raises(WireError):
        hosted._read(canonical.dumps(odd))


# ── with others ───────────────────────────────────────────────────────────────────────────────


def test_a_rule_sees_the_means_of_groups(tmp_path: Path) -> None:
    plugins = (
        "[plugins.secagg]\ngroup_size = 4\nmin_size = 3\ndropout = 0.05\n\n[plugins.median]\nf = 1"
    )
    ends = Ends.of(tmp_path, plugins, nodes=12, byzantine=1, quorum=11)
    result = ends.round(ends.nodes)
    assert found(result) != mean(ends.nodes)
    assert 1000 <= found(result)[0] <= 12_000
    assert len(result.weights) == 12


def test_groups_that_are_halved_are_refused(tmp_path: Path) -> None:
    """A coordinator has no heights at which that is agreed on."""
    ends = Ends.of(tmp_path, "[plugins.secagg]\nbisect = true\nmin_size = 3\n\n[plugins.mean]")
    with pytest.raises(CompatibilityError, match=r"QRES-E322 plugins\.secagg\.bisect"):
        ends.begin()


def test_turns_are_read_with_care() -> None:
    turn = hosting.HostedTurn(b"told", 3, 1, (b"frame",), {"secagg": b"set"})
    assert hosting.HostedTurn.from_bytes(turn.to_bytes(), 5) == turn
    other: list[Any] = [2, b"", 0, 0, [], {}]
    for octets in (b"", b"\x80", canonical.dumps(other)):
        with pytest.raises(WireError):
            hosting.HostedTurn.from_bytes(octets, 5)
    strange: list[list[Any]] = [
        [1, "", 0, 0, [], {}],
        [1, b"", -1, 0, [], {}],
        [1, b"", 0, 64, [], {}],
        [1, b"", 0, 0, [1], {}],
        [1, b"", 0, 0, [], {1: b""}],
        [1, b"", 0, 0, {}, {}],
    ]
    for wrong in strange:
        with pytest.raises(WireError):
            hosting.HostedTurn.from_bytes(canonical.dumps(wrong), 5)
