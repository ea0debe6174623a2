"""Dialogues where a client is a process for each message: kept, played again and handed on."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import qres_hosting as hosting
from qres_hosting.partaking import Partaking, hosted
from qres_hosting.retold import Happening, Retold
from qres_hosting.talk import HostedTalk
from qres_hosting.turns import MAX_TURNS
from qres_lab.testing import make_round_info

from qres_core import Accusation, Blame, Envelope, Fault, Update, reject
from qres_core.contract.stores import PrivateDatabase
from qres_core.dialogues import DialogueMessage, HostedDialogue, HostedMemory, Send
from qres_core.errors import CompatibilityError, RoundError
from qres_core.kernel.intake import Intake
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.storage.dialogue_log import Said, dialogue_kind

NONCE, OTHER, TOLD = bytes(32), bytes([1]) * 32, b"a round"
INFO = make_round_info()
NODES = INFO.roster


@attrs.define(eq=False)
class Greeting:
    """Says its name, is ready when all others did, and finished when all agreed to the set."""

    says: str = "hello"
    to: bytes | None = None
    heard: set[bytes] = attrs.field(factory=set[bytes])
    agreed: set[bytes] = attrs.field(factory=set[bytes])
    ticks: list[float] = attrs.field(factory=list[float])
    memory: HostedMemory | None = None
    name: bytes = b""
    wanted: int = len(NODES)

    @property
    def ready(self) -> bool:
        return len(self.heard) >= self.wanted

    @property
    def finished(self) -> bool:
        return len(self.agreed) >= self.wanted

    @property
    def over(self) -> bool:
        return self.finished

    @property
    def given(self) -> bytes:
        return self.name

    def gave(self, name: bytes) -> None:
        self.name = name

    def resume(self, memory: HostedMemory) -> None:
        self.memory = memory

    def start(self) -> Sequence[Send | Accusation]:
        return [Send(self.says.encode(), 0, self.to)]

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        (self.heard if message.step == 0 else self.agreed).add(message.sender)
        if message.body == b"liar":
            return [Accusation(message.sender, "lied")]
        return []

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        self.ticks.append(now)
        return []

    def concerns(self, message: DialogueMessage) -> bool:
        return message.body != b"elsewhere"

    def decided(
        self, members: Any, contributions: Any, round_info: Any
    ) -> Sequence[Send | Accusation]:
        del contributions, round_info
        return [Accusation(members[0], "odd")]

    def summary(self) -> bytes:
        return b"the set"

    def concluded(self, summary: bytes) -> Sequence[Send | Accusation]:
        return [Send(summary, 1)]


def test_a_dialogue_that_can_be_held_here_is_one_by_its_methods() -> None:
    greeting = Greeting()
    assert isinstance(greeting, HostedDialogue)
    assert hosted({"greeting": greeting}) == {"greeting": greeting}


def test_other_dialogues_are_refused_by_name() -> None:
    with pytest.raises(CompatibilityError, match=r"QRES-E322 plugins\.plain"):
        hosted({"plain": object()})  # type: ignore[dict-item]


def test_a_secret_shows_nowhere() -> None:
    secret = b"do not show it".ljust(32)
    assert "do not" not in repr(HostedMemory(secret, lambda _key, value: value))


# ── what a client keeps ───────────────────────────────────────────────────────────────────────


def begun(folder: Path, *, again: bool = False) -> Retold:
    file = Retold(folder, again=again)
    file.begin(NONCE, TOLD, 3)
    return file


def test_the_file_is_private_and_a_secret_is_drawn_for_each_round(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        secret = file.secret(NONCE, TOLD, 3)
        file.begin(NONCE, TOLD, 3)  # another message of the round
        assert file.secret(NONCE, TOLD, 3) == secret
        file.begin(OTHER, TOLD, 3)
        assert file.secret(OTHER, TOLD, 3) != secret
    assert stat.S_IMODE((tmp_path / "dialogues.sqlite").stat().st_mode) == 0o600


def test_a_round_is_begun_once(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        file.begin(OTHER, TOLD, 3)
        with pytest.raises(RoundError, match="began the same round before") as error:
            file.begin(NONCE, TOLD, 3)
        assert error.value.code == "QRES-E604"
        with pytest.raises(RoundError, match="not there at the beginning"):
            file.secret(NONCE, TOLD, 3)


def test_the_same_round_with_another_story_is_refused(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        with pytest.raises(RoundError, match="began the same round before"):
            file.begin(NONCE, b"another", 3)
        with pytest.raises(RoundError, match="told something else"):
            file.secret(NONCE, b"another", 3)
        with pytest.raises(RoundError, match="told something else"):
            file.secret(NONCE, TOLD, 4)


def test_in_an_experiment_a_round_begins_again(tmp_path: Path) -> None:
    """Its nonces follow from the seed."""
    with begun(tmp_path, again=True) as file:
        first = file.secret(NONCE, TOLD, 3)
        file.add(NONCE, 0, Happening(0), b"asked", (b"answer",))
        file.begin(NONCE, TOLD, 3)
        assert file.secret(NONCE, TOLD, 3) != first
        assert file.answered(NONCE, 0, b"asked") is None


def test_each_turn_is_answered_once_and_in_order(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        assert file.answered(NONCE, 0, b"asked") is None
        file.add(NONCE, 0, Happening(0), b"asked", (b"one", b"two"))
        assert file.answered(NONCE, 0, b"asked") == (b"one", b"two")
        with pytest.raises(RoundError, match="asked something else"):
            file.answered(NONCE, 0, b"something else")
        with pytest.raises(RoundError, match="the turn is 2"):
            file.answered(NONCE, 2, b"asked")


def test_of_two_processes_one_answers(tmp_path: Path) -> None:
    """Both played the same past, and made an answer each."""
    with begun(tmp_path) as file, Retold(tmp_path, again=False) as other:
        assert file.add(NONCE, 0, Happening(0), b"asked", (b"mine",)) == (b"mine",)
        assert other.add(NONCE, 0, Happening(0), b"asked", (b"other",)) == (b"mine",)
        with pytest.raises(RoundError, match="asked something else"):
            other.add(NONCE, 0, Happening(0), b"another", (b"other",))
        other.add(NONCE, 1, Happening(-1, (), {"sums": b"x"}))
        with pytest.raises(RoundError, match="another process"):
            file.add(NONCE, 1, Happening(-1, (), {"sums": b"y"}))


def test_a_process_that_lost_the_round_says_nothing(tmp_path: Path) -> None:
    with begun(tmp_path) as file, Retold(tmp_path, again=False) as other:
        other.begin(OTHER, TOLD, 3)
        with pytest.raises(RoundError, match="another process"):
            file.add(NONCE, 0, Happening(0), b"asked", (b"answer",))


def test_what_happened_is_as_it_was_told(tmp_path: Path) -> None:
    happened = [
        Happening(0, (("sums", NODES[1], 3, b"body"),)),
        Happening(-1, (), {"sums": b"name"}),
        Happening(1, (), {"sums": b"set"}),
    ]
    with begun(tmp_path) as file:
        for at, each in enumerate(happened):
            file.add(NONCE, at, each, b"asked %d" % at, ())
        assert file.history(NONCE) == happened


def test_when_it_is_over_the_secret_is_gone_and_the_answer_stays(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        secret = file.secret(NONCE, TOLD, 3)
        heard = (("sums", NODES[1], 3, b"a body that nobody needs any more"),)
        file.add(NONCE, 0, Happening(0, heard), b"asked", (b"answer",), over=True)
        with pytest.raises(RoundError, match="nothing more to say"):
            file.secret(NONCE, TOLD, 3)
        assert file.answered(NONCE, 0, b"asked") == (b"answer",)
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert secret not in kept
    assert heard[0][3] not in kept


def left_behind(folder: Path) -> bytes:
    """All that a process that is killed now leaves in its folder."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


KILLED = """
import sys
from pathlib import Path
from qres_hosting.retold import Happening, Retold
heard = (("sums", bytes(32), 3, b"a body that nobody needs any more"),)
file = Retold(Path(sys.argv[1]), again=False)
file.add(bytes.fromhex(sys.argv[2]), 0, Happening(0, heard), b"asked", (b"answer",), over=True)
print("answered", flush=True)
sys.stdin.read()
"""


def test_who_is_killed_when_it_is_over_leaves_no_secret(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        secret = file.secret(NONCE, TOLD, 3)
    command = [sys.executable, "-P", "-c", KILLED, str(tmp_path), NONCE.hex()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "answered\n"
        process.kill()
    kept = left_behind(tmp_path)
    assert b"a body that" not in kept
    assert secret not in kept
    assert b"answer" in kept, "control"


@pytest.mark.parametrize("emptied", [True, pytest.param(False, id="control")])
@pytest.mark.parametrize("ends", ["it is over", "the next round begins"])
def test_no_secret_outlives_its_use_in_an_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, *, emptied: bool
) -> None:
    """In the control it stays in the file or in its log until the file is closed."""
    if not emptied:
        monkeypatch.setattr(PrivateDatabase, "empty_log", lambda _self: None)
    with begun(tmp_path) as file:
        secret = file.secret(NONCE, TOLD, 3)
        assert secret in left_behind(tmp_path)
        if ends == "it is over":
            file.add(NONCE, 0, Happening(0), b"asked", (b"answer",), over=True)
        else:
            file.begin(OTHER, TOLD, 3)
        assert (secret in left_behind(tmp_path)) is not emptied


def test_what_was_kept_first_stays(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        assert file.first(b"model", b"a set") == b"a set"
        assert file.first(b"model", b"another") == b"a set"
    with Retold(tmp_path, again=True) as file:
        file.begin(NONCE, TOLD, 3)
        assert file.first(b"model", b"another") == b"a set"


def test_nothing_is_forgotten_to_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qres_hosting.retold.MOST_KEPT", 2)
    with begun(tmp_path) as file:
        file.first(b"model", b"a set")
        file.first(b"another", b"a set")
        with pytest.raises(RoundError, match=r"QRES-E602 dialogues\.sqlite.*a new key"):
            file.first(b"a third", b"a set")
        assert file.first(b"model", b"another") == b"a set"
        # Whatever a dialogue made of it: nothing leaves.
        with pytest.raises(RoundError, match="QRES-E602"):
            file.add(NONCE, 0, Happening(0), b"asked", (b"answer",))
    with Retold(tmp_path, again=False) as file:
        assert file.answered(NONCE, 0, b"asked") is None


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dialogues.sqlite").write_bytes(b"nothing" * 1000)
    with pytest.raises(RoundError, match="QRES-E602"):
        Retold(tmp_path, again=False)


# ── what a client plays again ─────────────────────────────────────────────────────────────────


def test_a_new_process_plays_what_the_others_were_told(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        secret = file.secret(NONCE, TOLD, 3)
        first = Greeting()
        part = Partaking({"greeting": first}, INFO, NONCE, file)
        part.play(secret)
        assert part.hear(Happening(0)) == [("greeting", 0, b"hello")]
        file.add(NONCE, 0, Happening(0), b"a", ())
        told = Happening(1, tuple(("greeting", node, 0, b"hello") for node in NODES))
        file.add(NONCE, 1, told, b"b", ())
        file.add(NONCE, 2, Happening(-1, (), {"greeting": b"gift"}))
        second = Greeting()
        again = Partaking({"greeting": second}, INFO, NONCE, file)
        again.play(secret)
        assert second.ticks == [0.0, 1.0]
        assert second.given == b"gift" == again.given().named["greeting"]
        assert first.memory is not None
        assert second.memory is not None
        assert first.memory.secret == second.memory.secret
        again.expect_ready()
        assert not again.over
        said = again.hear(Happening(2, (), {"greeting": b"the set"}))
        assert said == [("greeting", 1, b"the set")]


def test_two_plugins_share_no_secret(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        both = {"one": Greeting(), "two": Greeting()}
        Partaking(both, INFO, NONCE, file).play(file.secret(NONCE, TOLD, 3))
        secrets = {each.memory.secret for each in both.values() if each.memory is not None}
        assert len(secrets) == 2


def test_an_update_is_not_given_before_the_dialogue_is_ready(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        part = Partaking({"greeting": Greeting()}, INFO, NONCE, file)
        with pytest.raises(RoundError, match="the dialogue of greeting"):
            part.expect_ready()


def test_what_is_said_to_one_node_alone_is_refused(tmp_path: Path) -> None:
    with begun(tmp_path) as file:
        part = Partaking({"greeting": Greeting(to=NODES[1])}, INFO, NONCE, file)
        part.play(file.secret(NONCE, TOLD, 3))
        with pytest.raises(CompatibilityError, match="QRES-E322"):
            part.hear(Happening(0))


# ── what a coordinator hands on ───────────────────────────────────────────────────────────────


def said(node: bytes, body: bytes = b"hello", step: int = 0, plugin: str = "greeting") -> Said:
    kind = dialogue_kind(plugin, step)
    envelope = Envelope(INFO.swarm, kind, INFO.number, INFO.head, node, 1, 1, body)
    found = Said.read(envelope, NODES)
    assert found is not None
    return found


def turn(asked: bytes | None) -> hosting.HostedTurn:
    assert asked is not None
    return hosting.HostedTurn.from_bytes(asked, len(NODES))


def test_what_clients_say_is_handed_on_until_all_is_said() -> None:
    talk = HostedTalk(TOLD, INFO, {"greeting": Greeting()})
    assert turn(talk.asks()).frames == ()
    for node in NODES:
        assert talk.hear(said(node), node) == []
    assert talk.hear(said(NODES[0]), b"once more") == []
    assert turn(talk.asks()).frames == tuple(NODES)
    assert talk.asks() is None  # ready, and all was handed on
    assert talk.decided(NODES, ()) == [("greeting", Accusation(NODES[0], "odd"))]
    assert turn(talk.asks()).summaries == {"greeting": b"the set"}
    for node in NODES:
        talk.hear(said(node, b"the set", 1), node)
    assert talk.asks() is None  # finished


def test_a_coordinator_gives_up_where_nobody_answers() -> None:
    talk = HostedTalk(TOLD, INFO, {"greeting": Greeting()})
    turns = 0
    while talk.asks() is not None:
        turns += 1
    assert 1 < turns < 5
    talk.decided(NODES, ())
    assert talk.asks() is not None
    assert talk.asks() is None


def test_turns_end_whatever_is_said() -> None:
    talk = HostedTalk(TOLD, INFO, {"greeting": Greeting(wanted=1000)})
    turns = 0
    while talk.asks() is not None:
        talk.hear(said(NODES[turns % 2], b"more %d" % turns), b"frame")
        turns += 1
    assert turns < MAX_TURNS
    talk.decided(NODES, ())
    while talk.asks() is not None:
        talk.hear(said(NODES[turns % 2], b"more %d" % turns), b"frame")
        turns += 1
    assert turns == MAX_TURNS


def chatted() -> tuple[int, int]:
    """Turns before and after the set, of a talk in which a member says something in every turn."""
    talk = HostedTalk(TOLD, INFO, {"greeting": Greeting()})
    turns = 0
    while (asked := talk.asks()) is not None:
        for node in NODES if not turns else ():
            talk.hear(said(node), node)
        talk.hear(said(NODES[0], b"more %d" % turns), b"chatter")
        turns += 1
    talk.decided(NODES, ())
    after = 0
    while (asked := talk.asks()) is not None:
        if turn(asked).summaries:
            for node in NODES:
                talk.hear(said(node, b"the set", 1), node)
        talk.hear(said(NODES[0], b"after %d" % after), b"chatter")
        after += 1
    return turns, after


def test_who_talks_on_keeps_nobody_from_training_or_from_opening() -> None:
    assert chatted() == (2, 1)


def test_if_all_that_is_said_were_waited_for_nothing_would_be_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: one member uses up the turns, and no set is told."""

    def patient(self: HostedTalk) -> bool:
        return bool(self._summaries) or bool(self._fresh) or not self._turn

    monkeypatch.setattr(HostedTalk, "_goes_on", patient)
    monkeypatch.setattr("qres_hosting.talk._AFTER", 0)
    assert chatted() == (MAX_TURNS, 0)


def test_what_is_of_another_session_is_not_handed_on() -> None:
    talk = HostedTalk(TOLD, INFO, {"greeting": Greeting()})
    assert turn(talk.asks()).frames == ()
    assert talk.hear(said(NODES[0], b"elsewhere"), b"elsewhere") == []
    assert talk.hear(said(NODES[1]), b"here") == []
    assert turn(talk.asks()).frames == (b"here",)


def test_what_nobody_asked_for_is_refused() -> None:
    talk = HostedTalk(TOLD, INFO, {"greeting": Greeting()})
    assert talk.hear(said(NODES[0], plugin="other"), b"frame") is Fault.UNKNOWN_DIALOGUE
    accused = talk.hear(said(NODES[0], b"liar"), b"frame")
    assert accused == [("greeting", Accusation(NODES[0], "lied"))]
    found = [talk.hear(said(NODES[1], b"%d" % at), b"frame") for at in range(70)]
    assert found[-1] is Fault.TOO_MANY_DIALOGUE_MESSAGES


# ── both ends, with a plugin that greets ──────────────────────────────────────────────────────

TABLE = """
[swarm]
name = "hosted"
nodes = 3
byzantine = 0
quorum = 3
{folder}

[plugins.ed25519]

[plugins.replay]

[plugins.mean]
"""
SIZE = 3


@pytest.fixture
def greets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every plugin set has a dialogue more."""

    def opened(*_args: object) -> dict[str, Greeting]:
        return {"greeting": Greeting(wanted=2)}

    monkeypatch.setattr(Kernel, "round_opened", opened)


def read(tmp_path: Path, *, folder: bool = True) -> hosting.Host:
    text = f'\n[node]\ndata_dir = "{tmp_path / "data"}"' if folder else ""
    (tmp_path / "qres.toml").write_text(TABLE.format(folder=text), "utf-8")
    return hosting.Host.read(tmp_path / "qres.toml", seed=1)


def asked(host: hosting.Host, client: int, turn: bytes) -> tuple[bytes, ...]:
    with hosting.HostedClient(host, client) as made:
        return made.converse(turn)


@pytest.mark.usefixtures("greets")
def test_both_ends_talk_train_and_talk(tmp_path: Path) -> None:
    host = read(tmp_path)
    coordinator = hosting.Coordinator(host)
    told = coordinator.begin(bytes(32), SIZE).to_bytes()

    def talk() -> list[bytes]:
        turns: list[bytes] = []
        while (turn := coordinator.asks()) is not None:
            turns.append(turn)
            for client in range(3):
                for frame in asked(host, client, turn):
                    taken = coordinator.take(frame, b"link")
                    assert isinstance(taken, hosting.HostedMessage)
        return turns

    assert len(talk()) == 2
    for client in range(3):
        with hosting.HostedClient(host, client) as made:
            made.begin(told, bytes(32), SIZE)
            frame = made.contribute(Update(np.full(SIZE, 6, dtype=np.int32)))
        coordinator.take(frame, b"link")
    coordinator.decide()
    (last,) = talk()
    result = coordinator.close()
    assert result.merged is not None
    assert result.merged.tolist() == [6] * SIZE
    assert result.left_out  # whom the dialogue found odd
    assert coordinator.asks() is None
    assert asked(host, 1, last) == asked(host, 1, last)


@pytest.mark.usefixtures("greets")
def test_without_a_folder_nobody_talks(tmp_path: Path) -> None:
    host = read(tmp_path, folder=False)
    coordinator = hosting.Coordinator(host)
    coordinator.begin(bytes(32), SIZE)
    turn = coordinator.asks()
    assert turn is not None
    with pytest.raises(Exception, match=r"QRES-E103 node\.data_dir"):
        asked(host, 0, turn)


@pytest.mark.usefixtures("greets")
def test_what_is_handed_on_is_looked_at(tmp_path: Path) -> None:
    """Junk, what another signed, other rounds and the client's own words count for nothing."""
    host = read(tmp_path)
    coordinator = hosting.Coordinator(host)
    coordinator.begin(bytes(32), SIZE)
    first = coordinator.asks()
    assert first is not None
    frames = [asked(host, client, first)[0] for client in range(3)]
    whole = hosting.HostedTurn.from_bytes(first, 3)
    signed = Envelope.from_bytes(frames[1], max_bytes=2**20)
    changed = attrs.evolve(signed, payload=b"hullo").to_bytes()
    other = attrs.evolve(signed, round=signed.round + 1).to_bytes()
    junk = (b"junk", changed, other, frames[0])
    second = attrs.evolve(whole, number=1, frames=junk)
    assert asked(host, 0, second.to_bytes()) == ()
    third = attrs.evolve(whole, number=2, frames=tuple(frames))
    assert asked(host, 0, third.to_bytes()) == ()
    with Retold(Path(tmp_path / "data/client-0"), again=True) as file:
        nonce = hosting.HostedRound.from_bytes(whole.told).nonce
        heard = [len(each.heard) for each in file.history(nonce)]
    assert heard == [0, 0, 2]


@pytest.mark.usefixtures("greets")
def test_who_was_revoked_speaks_through_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordinator may have an old list. Without a revocation the same message counts."""
    host = read(tmp_path)
    coordinator = hosting.Coordinator(host)
    coordinator.begin(bytes(32), SIZE)
    first = coordinator.asks()
    assert first is not None
    frames = [asked(host, client, first)[0] for client in range(3)]
    whole = hosting.HostedTurn.from_bytes(first, 3)
    gone = Envelope.from_bytes(frames[1], max_bytes=2**20).sender
    judge = Intake.authenticate

    def authenticate(intake: Intake, envelope: Envelope, *of: Any, **how: bool) -> Any:
        if envelope.sender == gone and not how.get("quoted"):
            return reject("revoked", blame=Blame.NOBODY), "pki"
        return judge(intake, envelope, *of, **how)

    second = attrs.evolve(whole, number=1, frames=tuple(frames))
    with monkeypatch.context() as patch:
        patch.setattr(Intake, "authenticate", authenticate)
        for client in (0, 2):
            asked(host, client, second.to_bytes())
    third = attrs.evolve(whole, number=2, frames=tuple(frames))
    asked(host, 0, third.to_bytes())
    nonce = hosting.HostedRound.from_bytes(whole.told).nonce
    heard = {}
    for client in (0, 2):
        with Retold(Path(tmp_path / f"data/client-{client}"), again=True) as file:
            heard[client] = [len(each.heard) for each in file.history(nonce)]
    assert heard == {0: [0, 1, 2], 2: [0, 1]}
