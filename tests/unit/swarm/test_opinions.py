"""Calls that judge while the machine goes on: their order, their end, what liars make of them."""

from __future__ import annotations

import gc
import random
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar, cast

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import Claims, RoundInfo, RoundStatus, Updates, Vector, hookimpl
from qres_core.claims import Wraps
from qres_core.contract.faults import Fault
from qres_core.contract.trainer_abilities import TrainerAbilities
from qres_core.kernel.discovery import Installed
from qres_core.swarm.agreement.judgements import PATIENCE_TO_JUDGE, Opinions, _Suspended
from qres_core.swarm.consensus.engine import Consensus
from qres_core.swarm.context.effects import AskTrainer, Broadcast, SendTo
from qres_core.swarm.ledger.messages import (
    CONTRIBUTION,
    PREVOTE,
    PROPOSAL,
    CandidateSet,
    ContributionBody,
    Member,
    Proposal,
    decode_vote,
)
from qres_core.training import HeldOut

MODEL = np.zeros(2, dtype=np.int32)
Put = list[AskTrainer]


def opinions(loss: Callable[[Vector], float] = lambda _model: 1.0) -> tuple[Opinions, Put, Any]:
    """Calls that are suspended, what they ask, and the held-out examples of a round."""
    put: Put = []
    kernel = cast("Any", SimpleNamespace(has=lambda hook: hook == "endorse"))
    outlet = cast("Any", SimpleNamespace(put=put.append))
    made = Opinions(kernel, outlet, TrainerAbilities(validate=loss))
    made.apart = True
    return made, put, made.held_out(MODEL, make_round_info(len(MODEL)))


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "qres-judging"]


# ── one call ──────────────────────────────────────────────────────────────────────────────────


def test_a_call_goes_on_with_what_the_trainer_says_and_is_told_once() -> None:
    made, put, held = opinions(lambda model: float(model.sum()))

    def judge() -> tuple[float, float]:
        return held.loss(), held.loss_with(np.array([2, 3], dtype=np.int32))

    assert made.ask("judge", judge) is None
    assert made.waits_for("judge")
    for at in range(2):
        assert made.ask("judge", judge) is None
        (*_, asked) = put
        assert len(put) == at + 1
        asked.run()
        made.answered(asked)
    assert not made.waits_for("judge")
    assert made.ask("judge", judge) == (0.0, 5.0)
    assert made.ask("judge", judge) is None
    made.leave()
    assert made.ask("judge", judge) is None  # after the round it is a new question
    made.leave()


def test_a_question_is_new_once_it_is_told_and_rests_on_something_else() -> None:
    made, put, _held = opinions()
    assert made.ask("choose", lambda: "first", of=lambda: 1) == "first"
    assert made.ask("choose", lambda: "again", of=lambda: 1) is None
    assert made.ask("choose", lambda: "other", of=lambda: 2) == "other"
    assert not put


def test_what_comes_while_it_is_under_way_does_not_begin_it_anew() -> None:
    made, put, held = opinions()
    assert made.ask("choose", held.loss, of=lambda: 1) is None
    assert made.ask("choose", held.loss, of=lambda: 2) is None
    assert len(put) == 1
    put[0].run()
    made.answered(put[0])
    assert made.ask("choose", held.loss, of=lambda: 2) == 1.0


def test_the_trainer_s_error_is_raised_in_the_hook_and_the_hook_s_where_it_was_asked_for() -> None:
    def fails(_model: Vector) -> float:
        raise ZeroDivisionError("the trainer")

    made, put, held = opinions(fails)
    caught: list[BaseException] = []

    def judge() -> float:
        try:
            loss: float = held.loss()
        except ZeroDivisionError as error:
            caught.append(error)
            raise LookupError("the hook") from error
        return loss

    assert made.ask("judge", judge) is None
    put[0].run()
    made.answered(put[0])
    assert [str(error) for error in caught] == ["the trainer"]
    with pytest.raises(LookupError, match="the hook"):
        made.ask("judge", judge)


def test_a_call_that_nobody_waits_for_ends_and_its_question_is_not_asked() -> None:
    seen: list[Vector] = []

    def note(model: Vector) -> float:
        seen.append(model)
        return 0.0

    made, put, held = opinions(note)
    ended: list[str] = []

    def stubborn() -> float:
        for _time in range(3):  # a plugin may swallow whatever is raised in it
            try:
                held.loss()
            except BaseException:  # noqa: BLE001 - as such plugins do
                ended.append("swallowed")
        return 0.0

    assert made.ask("judge", stubborn) is None
    assert made.ask("merge", lambda: "merged") == "merged"  # takes its place
    assert ended == ["swallowed"] * 3
    put[0].run()
    assert not seen
    assert not made.waits(put[0])
    made.answered(put[0])
    assert made.ask("merge", lambda: "again") is None


def test_an_answer_that_is_under_way_when_the_call_is_left_changes_nothing() -> None:
    made, put, held = opinions()
    assert made.ask("judge", held.loss) is None
    assert put[0].answer.set_running_or_notify_cancel()
    made.leave()
    put[0].answer.set_result(1.0)
    assert not made.waits(put[0])


def test_what_raises_in_the_owner_while_a_hook_works_leaves_no_thread() -> None:
    """Ctrl-C, while the machine waits for a hook that does not ask yet."""
    made, put, held = opinions()
    may = threading.Event()
    came: list[str] = []

    def judge() -> float:
        signal.pthread_kill(main, signal.SIGINT)
        may.wait()
        for _time in range(2):
            try:
                held.loss()
            except BaseException as error:  # noqa: BLE001 - to see it
                came.append(type(error).__name__)
        return 0.0

    main = threading.get_ident()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            made.ask("judge", judge)
    finally:
        signal.signal(signal.SIGINT, before)
    may.set()
    made.leave()
    assert came == ["_AbandonedError"] * 2
    assert not put


class Large:
    """What a hook has in its hands, as all updates of a round."""


def raises(_model: Vector) -> float:
    raise ZeroDivisionError


@pytest.mark.parametrize("end", ["told", "left", "left while the trainer works", "the trainer's"])
@pytest.mark.parametrize("guarded", [True, False])
def test_a_call_that_is_over_keeps_nothing_until_cycles_are_collected(
    monkeypatch: pytest.MonkeyPatch, end: str, *, guarded: bool
) -> None:
    """In the control its error, which holds the frames of the call, stays in it."""

    def kept(self: Any) -> float:
        if self._error is not None:
            raise self._error
        found: float = self._found[0]
        return found

    def left(self: Any) -> None:
        self._is_left = True
        self.asks.answer.cancel()
        self._answers.put(None)
        self._thread.join()

    if not guarded:
        monkeypatch.setattr(_Suspended, "found", kept)
        monkeypatch.setattr(_Suspended, "abandon", left)
    made, put, held = opinions(raises if end == "the trainer's" else lambda _model: 1.0)
    seen: list[weakref.ref[Large]] = []

    def judge() -> float:
        large = Large()
        seen.append(weakref.ref(large))
        held.loss()
        raise LookupError(large)

    gc.disable()
    try:
        made.ask("judge", judge)
        asked = put.pop()
        if end == "left while the trainer works":
            assert asked.answer.set_running_or_notify_cancel()
        if "left" not in end:
            asked.run()
            made.answered(asked)
            with pytest.raises((LookupError, ZeroDivisionError)):
                made.ask("judge", judge)
        made.leave()
        del asked
        assert (seen[0]() is None) is guarded
    finally:
        gc.enable()


def test_hooks_that_ask_from_another_thread_or_later_are_answered_at_once() -> None:
    made, put, held = opinions()

    def judge() -> float:
        found: list[float] = []
        helper = threading.Thread(target=lambda: found.append(held.loss()))
        helper.start()
        helper.join()
        return found[0]

    assert made.ask("judge", judge) == 1.0
    assert held.loss_with(MODEL) == 1.0
    assert not put


def test_a_machine_that_waits_for_the_trainer_asks_nobody() -> None:
    made, put, held = opinions()
    made.apart = False
    assert [made.ask("judge", held.loss) for _time in range(2)] == [1.0, 1.0]
    assert not put


# ── a swarm of them ───────────────────────────────────────────────────────────────────────────


@pytest.fixture
def slow(harness: ModuleType) -> Iterator[Any]:
    """A swarm of four whose trainers take 0.2 s to judge a model, and the set of those hung."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.Net, "judging", 0.2)
        nets: list[Any] = []

        def make(**options: Any) -> Any:
            options = {"byzantine": 1, "plugins": {"critic": {}}, **options}
            options.setdefault("validate", lambda _index, _model: 0.0)
            nets.append(harness.Net(4, **options))
            return nets[-1]

        yield make
        for net in nets:
            for node in net.live:
                node.machine.stop()


def said(net: Any, index: int, kind: str) -> list[Any]:
    return [message for message in net.sent if message.sender == index and message.kind == kind]


def test_a_trainer_that_never_comes_back_costs_one_vote(slow: Any) -> None:
    net = slow()
    net.hung.add(3)
    net.start()
    # It proposes nothing that it has not screened, and gives up what it cannot judge.
    assert net.run(until=lambda: min(net.steps()) >= 5, seconds=120)
    assert not net.forks()
    votes = said(net, 3, PREVOTE)
    assert votes
    assert all(decode_vote(vote.envelope.payload) is None for vote in votes)
    assert not said(net, 3, PROPOSAL)
    closed = [end for end in net.nodes[3].ended if end.outcome.status is RoundStatus.CLOSED]
    assert all(net.ids[3] in end.outcome.members for end in closed)


def test_where_no_trainer_comes_back_nobody_waits_for_ever(slow: Any) -> None:
    """The set is not merged, and rounds go on to end."""
    net = slow(plugins={"critic": {"screens": False}})
    net.hung.update(range(4))
    net.start()
    net.run(seconds=200)
    assert net.steps() == [0] * 4
    for node in net.nodes:
        ends = [end.outcome for end in node.ended]
        assert len(ends) >= 3
        assert "not judged in time" in {outcome.reason for outcome in ends}
        votes = said(net, node.index, PREVOTE)
        assert all(decode_vote(vote.envelope.payload) is None for vote in votes)


def test_a_node_waits_for_its_own_opinion_as_long_as_it_says(
    slow: Any, harness: ModuleType
) -> None:
    """Longer than the vote timeout, and not longer than eight of them."""
    took = PATIENCE_TO_JUDGE * harness.VOTE_TIMEOUT
    for judging, merges in ((0.9 * took, True), (1.1 * took, False)):
        harness.Net.judging = judging
        net = slow(plugins={"critic": {"screens": False}})
        net.start()
        assert net.run(until=lambda net=net: min(net.steps()) >= 1, seconds=2 * took) is merges


@attrs.frozen
class Judged:
    """Asks the trainer about what is merged, as ``public_validation`` does."""

    claims: ClassVar[Claims] = Claims(tolerates=None, wraps=Wraps(alters=False))

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, held_out: HeldOut
    ) -> Vector:
        merged = proceed(updates)
        held_out.loss_with(merged)
        return merged


@pytest.mark.parametrize("judging", [None, 0.01])
def test_a_proposer_that_screens_nothing_proposes_once_its_set_is_revealable(
    slow: Any, harness: ModuleType, monkeypatch: pytest.MonkeyPatch, judging: float | None
) -> None:
    """That may change with the dialogues, after the last contribution came."""
    monkeypatch.setattr(harness.Net, "judging", judging)
    monkeypatch.setitem(harness.INSTALLED, "judged", Installed.local("judged", Judged))
    at = harness.START + harness.DEADLINE / 2

    def allows(_own: Any, senders: Any, _info: RoundInfo) -> Any:
        return senders if net.now > at else senders[:2]

    monkeypatch.setattr(harness.Opener, "allows", staticmethod(allows))
    net = slow(plugins={"opener": {}, "judged": {}})
    net.start()
    assert net.run(until=lambda: min(net.steps()) >= 1, seconds=60)
    assert {end.outcome.status for node in net.nodes for end in node.ended} == {RoundStatus.CLOSED}
    asked = [effect for effect in net.nodes[0].effects if isinstance(effect, AskTrainer)]
    assert bool(asked) is (judging is not None)


# ── what liars make of the time ───────────────────────────────────────────────────────────────


def forge_proposals(net: Any, by: int, count: int) -> None:
    """Different sets for one round, each of which an honest node might have proposed."""
    machine = net.machine(net.live[0].index)
    held = sorted(machine.contributions.items())
    for bent in range(count):
        members = tuple(Member(sender, made.digest, 2**32 - bent) for sender, made in held)
        payload = Proposal(CandidateSet(machine.number, members)).to_bytes()
        forged = net.forge(by, PROPOSAL, payload, number=machine.number, model=machine.head.digest)
        net.inject(forged, [node.index for node in net.live])


@pytest.mark.parametrize("guarded", [True, False])
def test_a_proposer_gets_no_more_judged_than_one_set_a_round(
    slow: Any, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    """However many it proposes; in the control the last counts, and is judged as well."""
    first = Consensus.propose

    def last(self: Any, number: int, value: bytes, valid_round: int = 0) -> Any:
        self._proposals.pop(number, None)
        return first(self, number, value, valid_round)

    if not guarded:
        monkeypatch.setattr(Consensus, "propose", last)
    by = int(slow().index_of[slow().machine(0).proposer(1)])
    net = slow(puppets=[by], plugins={"critic": {"screens": False}})
    net.start()
    net.run(until=lambda: all(len(n.machine.contributions) == 3 for n in net.live), seconds=1)
    forge_proposals(net, by, 50)
    net.run(until=lambda: net.live[0].machine.number > 1 or max(net.steps()) > 0, seconds=60)
    for node in net.live:
        asked = [effect for effect in node.effects if isinstance(effect, AskTrainer)]
        assert len(asked) == (1 if guarded else 2)
        votes = [vote for vote in said(net, node.index, PREVOTE) if vote.round == 1]
        assert len({vote.envelope.payload for vote in votes}) <= 1
        assert node.refused[Fault.EQUIVOCATION] == 49


@pytest.mark.parametrize("guarded", [True, False])
def test_contributions_that_come_one_by_one_do_not_make_a_proposer_screen_anew(
    slow: Any, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    ask = Opinions.ask

    def anew(self: Any, what: Any, call: Any, of: Any = lambda: None) -> Any:
        if self._running is not None and of() != self._of:
            self.leave()
        return ask(self, what, call, of)

    if not guarded:
        monkeypatch.setattr(Opinions, "ask", anew)
        monkeypatch.setattr(Opinions, "waits_for", lambda _self, _what: False)
    by = int(slow().index_of[slow().machine(0).proposer(1)])
    late = (by + 1) % 4
    net = slow(puppets=[late])
    net.judging = 0.1
    net.start()
    net.run(until=lambda: "screen" in net.nodes[by].plugin("critic").judged, seconds=5)
    body = ContributionBody(1, np.ones(3, dtype=np.int32), {}, {}).to_bytes()
    head = net.machine(by).head.digest
    net.inject(net.forge(late, CONTRIBUTION, body, number=1, model=head), [by])
    net.run(until=lambda: bool(said(net, by, PROPOSAL)), seconds=5)
    assert net.nodes[by].plugin("critic").judged.count("screen") == (1 if guarded else 2)
    (proposed, *_) = said(net, by, PROPOSAL)
    members = Proposal.from_bytes(proposed.envelope.payload, 4).candidate.members
    assert (net.ids[late] in {member.sender for member in members}) is not guarded


def test_sets_that_change_from_round_to_round_leave_one_question_at_a_time(slow: Any) -> None:
    """What an earlier set asked is not asked any more, so that no pile of models grows."""
    net = slow(plugins={"critic": {"screens": False}})
    net.hung.update(range(4))
    net.start()
    net.run(seconds=100)
    for node in net.nodes:
        asked = [effect for effect in node.effects if isinstance(effect, AskTrainer)]
        assert len(asked) >= 3
        assert sum(not effect.answer.done() for effect in asked) <= 1


# ── chance ────────────────────────────────────────────────────────────────────────────────────────


def trouble(harness: ModuleType, seed: int, *, restarts: bool, heals: float) -> Any:
    """A bad network with liars, whose trainers are slow, hang, fail and come too late, at will."""
    rng = random.Random(seed)
    good = harness.START + heals
    nodes, byzantine = rng.choice([(4, 1), (4, 1), (7, 2)])
    kinds: Any = ({"critic": {}}, {"critic": {"screens": False}}, {"judged": {}})
    liars = {
        index: rng.choice(harness.LIES)
        for index in rng.sample(range(nodes), rng.randint(0, byzantine))
    }

    class Net(harness.Net):  # type: ignore[misc, name-defined]
        @property
        def judging(self) -> float:
            if self.now >= good:
                return 0.05
            seconds = rng.choice([0.0, 0.05, 0.3, 1.0, 3.0, 4.2, 6.0, 60.0, 1e9])
            return seconds * rng.uniform(0.9, 1.1)

    def validate(_index: int, _model: Vector) -> float:
        if net.now < good and rng.random() < 0.1:
            raise rng.choice([ZeroDivisionError, MemoryError, StopIteration])
        return rng.choice([0.0] * 9 + [1.0]) if net.now < good else 0.0

    net = Net(nodes, byzantine=byzantine, plugins=rng.choice(kinds), validate=validate)
    net.honest = [index for index in range(nodes) if index not in liars]
    net.rule = harness.Chaos(net, rng, liars, heals=good)
    net.start()
    while restarts and net.now < good:
        net.run(seconds=rng.uniform(0.0, 3.0))
        for index in rng.sample(net.honest, rng.choice([1, 1, len(net.honest)])):
            stopped = net.machine(index)
            net.restart(index)
            stopped.stop()
    net.run(seconds=max(0.0, good - net.now))
    return net


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 24))]
)
def test_whatever_trainers_do_nobody_forks_or_votes_twice_and_all_go_on(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, seed: int, *, restarts: bool
) -> None:
    monkeypatch.setitem(harness.INSTALLED, "judged", Installed.local("judged", Judged))
    net = trouble(harness, seed, restarts=restarts, heals=8.0)
    try:
        target = max(net.steps(net.honest)) + 2
        assert net.run(until=lambda: min(net.steps(net.honest)) >= target, seconds=120)
    finally:
        for node in net.live:
            node.machine.stop()
    assert not net.forks(net.honest)
    assert not any(net.nodes[index].diverged for index in net.honest)
    ids = {net.ids[index] for index in net.honest}
    for index in net.honest:
        votes: dict[Any, set[bytes]] = {}
        for message in net.sent:
            if message.sender == index and message.kind.endswith(("prevote", "precommit")):
                of = message.kind, message.envelope.head, message.round
                votes.setdefault(of, set()).add(message.envelope.payload)
        assert all(len(said) == 1 for said in votes.values())
        against = [e for e in net.nodes[index].witness.evidence if e.against and e.subject in ids]
        assert {e.fact for e in against} <= {"replayed", "critic:harmful"}


@pytest.mark.parametrize("same", [True, False])
def test_the_same_inputs_in_the_same_order_give_the_same_messages(
    harness: ModuleType, monkeypatch: pytest.MonkeyPatch, *, same: bool
) -> None:
    """Answers are inputs. In the control the last of them comes last of all."""
    rng = random.Random(7)
    late: Any = property(lambda _net: rng.choice([0.01, 0.2, 0.9]) * rng.uniform(0.9, 1.1))
    monkeypatch.setattr(harness.Net, "judging", late)
    options: Any = {"byzantine": 1, "plugins": {"critic": {}}}
    nets = [harness.Net(4, **options, validate=lambda _index, _model: 0.0) for _time in range(2)]
    for net in nets:
        net.wait_for_all()
    asked: list[list[AskTrainer]] = [[], []]
    log: list[tuple[str, tuple[Any, ...]]] = []
    said: list[list[bytes]] = [[], []]

    def note(of: int, effects: Any) -> Any:
        asked[of] += [effect for effect in effects if isinstance(effect, AskTrainer)]
        said[of] += [e.frame for e in effects if isinstance(e, Broadcast | SendTo)]
        return effects

    def recorded(name: str, take: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            kept = given if name != "answered" else (asked[0].index(given[0]), given[1])
            log.append((name, kept))
            return note(0, take(*given))

        return call

    machine, again = (net.machine(0) for net in nets)
    for name in ("start", "receive", "tick", "trained", "answered"):
        setattr(machine, name, recorded(name, getattr(machine, name)))
    nets[0].start()
    nets[0].run(seconds=10)
    if not same:
        last = max(at for at, (name, _given) in enumerate(log) if name == "answered")
        log.append(log.pop(last))
    for name, given in log:
        if name == "answered":
            question = asked[1][given[0]]
            question.run()
            note(1, again.answered(question, given[1]))
        else:
            note(1, getattr(again, name)(*given))
    for net in nets:
        for node in net.live:
            node.machine.stop()
    assert len(asked[0]) >= 5
    assert (said[0] == said[1]) is same
