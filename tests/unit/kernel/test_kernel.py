"""The facade: who is called when, with what, and what becomes of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing.builders import (
    make_node_ids,
    make_node_info,
    make_round_info,
    make_updates,
)

from qres_core import (
    ACCEPT,
    Accusation,
    Claims,
    Contribution,
    Evidence,
    Fault,
    Merit,
    Needs,
    NodeId,
    Outcome,
    RoundInfo,
    RoundStatus,
    Standing,
    Surroundings,
    Update,
    Updates,
    Vector,
    Verdict,
    Visibility,
    check_vector,
    hookimpl,
    reject,
)
from qres_core.attacks.scenario import Scenario
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory, MemoryTransport
from qres_core.claims import Extent, Hides, Wraps
from qres_core.dialogues import DialogueMessage, Revelation, RevelationError, Send
from qres_core.errors import CompatibilityError, HookError, PluginError, Problem, ValueRefusedError
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.node_ids import node_ids
from qres_core.kernel.slots import ALL_HOOKS
from qres_core.lab.simulator import simulate
from qres_core.training import HeldOut, RecordClip, Screening
from qres_core.training.tasks import TaskConfig
from qres_core.transport import LinkKeys

MakeKernel = Callable[..., Kernel]
Proceed = Callable[[Any], Vector]
ROUND = make_round_info(2)
UPDATE = Update(np.array([1, 2], dtype=np.int32), 3)
UPDATES = make_updates([[1, 2], [3, 4], [5, 6]])
MADE = tuple(
    Contribution(node, bytes(32), np.array([place + 1, 0], dtype=np.int32), 1)
    for place, node in enumerate(make_node_ids(3))
)
HELD_OUT = HeldOut(np.array([0, 0], dtype=np.int32), lambda _model: 1.0)
OUTCOME = Outcome(ROUND, RoundStatus.CLOSED, bytes(32))


def vector(*values: int) -> Vector:
    return np.array(values, dtype=np.int32)


def plugin(**hooks: Any) -> type[object]:
    """A plugin class with these functions as its hooks."""
    marked = {name: hookimpl(function) for name, function in hooks.items()}
    body = {"claims": Claims(tolerates=None), **marked}
    return attrs.make_class("Toy", [], class_body=body)


def returning(hook: str, value: object) -> type[object]:
    """A plugin class whose one hook returns ``value``."""
    return plugin(**{hook: lambda _self: value})


# ── the order of a whole round ────────────────────────────────────────────────────────────────────


@attrs.frozen
class Call:
    node: NodeId
    who: str
    hook: str


LOG: list[Call] = []


@pytest.fixture
def log() -> Iterator[list[Call]]:
    LOG.clear()
    yield LOG
    LOG.clear()


def _note(self: Any, hook: str) -> None:
    LOG.append(Call(self.node, self.who, hook))


@attrs.define
class Many:
    """Has every hook that many plugins may have, and writes down each call."""

    who: str
    node: NodeId = attrs.field(default=b"", init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self, node_info: Any) -> None:
        self.node = node_info.node_id
        _note(self, "setup")

    @hookimpl
    def teardown(self) -> None:
        _note(self, "teardown")

    @hookimpl
    def round_opened(self) -> None:
        _note(self, "round_opened")

    @hookimpl
    def round_closed(self) -> None:
        _note(self, "round_closed")

    @hookimpl
    def status(self) -> dict[str, object]:
        return {"who": self.who}

    @hookimpl
    def sign(self) -> bytes:
        _note(self, "sign")
        return b""

    @hookimpl
    def authenticate(self) -> Verdict:
        _note(self, "authenticate")
        return ACCEPT

    @hookimpl
    def admit(self) -> Verdict:
        _note(self, "admit")
        return ACCEPT

    @hookimpl
    def approve(self) -> Verdict:
        _note(self, "approve")
        return ACCEPT

    @hookimpl
    def replay_check(self) -> Verdict:
        _note(self, "replay_check")
        return ACCEPT

    @hookimpl
    def observe(self) -> None:
        _note(self, "observe")

    @hookimpl
    def privatize(self, update: Update) -> Update:
        _note(self, "privatize")
        return update

    @hookimpl
    def revealable(self, contributions: tuple[Contribution, ...]) -> tuple[NodeId, ...]:
        _note(self, "revealable")
        return tuple(item.sender for item in contributions)

    @hookimpl
    def reveal(self, updates: Updates) -> Updates:
        _note(self, "reveal")
        return updates

    @hookimpl
    def prove(self) -> bytes:
        _note(self, "prove")
        return b""

    @hookimpl
    def verify(self) -> Verdict:
        _note(self, "verify")
        return ACCEPT

    @hookimpl
    def verify_all(self, contributions: tuple[Contribution, ...]) -> list[Verdict]:
        _note(self, "verify_all")
        return [ACCEPT] * len(contributions)

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        _note(self, "wrap_aggregate")
        try:
            return proceed(updates)
        finally:
            _note(self, "wrap_aggregate ends")


@attrs.define
class Single:
    """Has every hook that only one plugin may have."""

    node: NodeId = attrs.field(default=b"", init=False)
    who: str = attrs.field(default="one", init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def identity(self, seed: NodeId) -> NodeId:
        self.node = seed
        _note(self, "identity")
        return seed

    @hookimpl
    def key_index(self, node_id: NodeId) -> int:
        if node_id == self.node:
            _note(self, "key_index")
        return 0

    @hookimpl
    def link_keys(self) -> LinkKeys:
        _note(self, "link_keys")
        return LinkKeys(self.node, lambda statement: statement, lambda node: node)

    @hookimpl
    def credential(self) -> bytes:
        _note(self, "credential")
        return b""

    @hookimpl
    def reputation(self) -> Standing:
        _note(self, "reputation")
        return Standing()

    @hookimpl
    def aggregate(self, updates: Updates) -> Vector:
        _note(self, "aggregate")
        return check_vector(updates.vectors[0], "first")

    @hookimpl
    def transport(self, node_info: Any) -> MemoryTransport:
        _note(self, "transport")
        return MemoryTransport(node_info.node_id, node_info.swarm, 1)


@attrs.define
class Judge:
    """Has the hooks that judge before the vote, which no plugin that reveals may stand beside."""

    who: str
    node: NodeId = attrs.field(default=b"", init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self, node_info: Any) -> None:
        self.node = node_info.node_id

    @hookimpl
    def screen(self, held_out: HeldOut) -> Screening:
        held_out.loss()
        _note(self, "screen")
        return Screening()

    @hookimpl
    def endorse(self, merged: Vector, held_out: HeldOut) -> Verdict:
        held_out.loss_with(merged)
        _note(self, "endorse")
        return ACCEPT

    @hookimpl
    def wrap_aggregate(self, proceed: Callable[[Updates], Vector], updates: Updates) -> Vector:
        _note(self, "wrap_aggregate")
        return proceed(updates)

    @hookimpl
    def round_closed(self) -> None:
        _note(self, "round_closed")


ORDER = [
    "one identity",
    "a setup",
    "b setup",
    "one key_index",
    # may this node vote at the height?
    "a sign",
    "b sign",
    "a authenticate",
    "b authenticate",
    "a round_opened",
    "b round_opened",
    # this node's own update leaves
    "a privatize",
    "b privatize",
    "a prove",
    "b prove",
    # the others' arrive
    "one reputation",
    "a replay_check",
    "b replay_check",
    # and are checked together: all are here
    "a verify_all",
    "b verify_all",
    # a set is proposed
    "a revealable",
    "b revealable",
    # the set is agreed
    "b reveal",
    "a reveal",
    "a wrap_aggregate",
    "b wrap_aggregate",
    "one aggregate",
    "b wrap_aggregate ends",
    "a wrap_aggregate ends",
    "a observe",
    "b observe",
    "a round_closed",
    "b round_closed",
    "b teardown",
    "a teardown",
]


def test_the_order_of_all_hooks_in_one_round(
    make_config: Callable[..., Config], log: list[Call]
) -> None:
    simulate(
        make_config({"a": {"who": "a"}, "one": {}, "b": {"who": "b"}}, insecure=False),
        # Messages are slower than training, so that nothing arrives before the own update left.
        Scenario(rounds=1, delay=1.0, jitter=0.0),
        task=TaskConfig(name="quadratic", dimension=3),
        installed={
            "a": Installed.local("a", Many),
            "b": Installed.local("b", Many),
            "one": Installed.local("one", Single),
        },
    )
    node = node_ids(4, 0)[0]
    here = [call for call in log if call.node == node]
    closed = here.index(Call(node, "b", "round_closed")) + 1
    end = [call for call in here[closed:] if call.hook == "teardown"]
    calls = [f"{call.who} {call.hook}" for call in [*here[:closed], *end]]
    assert list(dict.fromkeys(calls)) == ORDER

    # Every message of the round came in by the same steps.
    path = ["reputation", "authenticate", "authenticate", "replay_check", "replay_check"]
    hooks = [call.hook for call in here[:closed]]
    starts = [at for at, hook in enumerate(hooks) if hook == "replay_check"][::2]
    assert len(starts) >= 3
    for start in starts:
        assert hooks[start - 3 : start + 2] == path
    assert hooks.count("verify_all") == 2


def test_judges_are_asked_before_the_vote_and_the_set_is_merged_once(
    make_config: Callable[..., Config], log: list[Call]
) -> None:
    config = make_config(
        {"a": {"who": "a"}, "mean": {"unprotected": True}, "b": {"who": "b"}, "memory": {}}
    )
    task = TaskConfig(held_out=10, local_epochs=1)
    installed = {**scan(), **{name: Installed.local(name, Judge) for name in "ab"}}
    simulate(config, Scenario(rounds=1), task=task, installed=installed)
    calls: dict[NodeId, list[str]] = {}
    for call in log:
        calls.setdefault(call.node, []).append(f"{call.who} {call.hook}")
    screening = ["a screen", "b screen"]
    voting = ["a wrap_aggregate", "b wrap_aggregate", "a endorse", "b endorse"]
    rest = [*voting, "a round_closed", "b round_closed"]
    proposers = [made for made in calls.values() if "a screen" in made]
    assert proposers == [[*screening, *rest]]
    others = [made for made in calls.values() if "a screen" not in made]
    assert others == [rest] * 3


def test_what_judges_needs_examples_to_judge_by(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"a": Judge}, options={"a": {"who": "a"}}, set_up=False)
    with pytest.raises(CompatibilityError, match=r"QRES-E311 plugins\.a: .*held_out"):
        kernel.setup(make_node_info())


def test_what_protects_examples_needs_them_clipped(make_kernel: MakeKernel) -> None:
    clip = RecordClip(1.0, 10)

    @attrs.frozen
    class Private:
        claims = Claims(tolerates=None, needs=Needs(records=clip))

        @hookimpl
        def privatize(self, update: Update) -> Update:
            return update

    kernel = make_kernel({"a": Private}, set_up=False)
    assert kernel.record_clip == clip
    for other in (None, RecordClip(2.0, 10), RecordClip(1.0, 11)):
        with pytest.raises(CompatibilityError, match=r"QRES-E318 plugins\.a: .*single examples"):
            kernel.setup(attrs.evolve(make_node_info(), clipped=other))
    kernel.setup(attrs.evolve(make_node_info(), clipped=clip))
    assert make_kernel({}).record_clip is None


def test_the_recorders_have_every_hook() -> None:
    """A new hook has to be given its place in the order above."""
    had = {name for kind in (Many, Single, Judge) for name in vars(kind) if name in ALL_HOOKS}
    assert had == set(ALL_HOOKS) - {"reveal_shard", "verify_shard"}  # test_sharded.py has these


# ── calling ───────────────────────────────────────────────────────────────────────────────────────


def test_hooks_get_what_they_ask_for_by_name(make_kernel: MakeKernel) -> None:
    got: dict[str, object] = {}

    def privatize(_self: object, round_info: object) -> Update:
        got["order and number of arguments are the plugin's choice"] = round_info
        return UPDATE

    def aggregate(_self: object, round_info: object = None, updates: object = None) -> Vector:
        got["a default does not hide what the kernel gives"] = (round_info, updates)
        return vector(0, 0)

    kernel = make_kernel({"toy": plugin(privatize=privatize, aggregate=aggregate)})
    kernel.privatize(UPDATE, ROUND)
    kernel.aggregate(UPDATES, ROUND)
    assert list(got.values()) == [ROUND, (ROUND, UPDATES)]


@attrs.define
class Counting:
    calls: int = attrs.field(default=0, init=False)

    claims = Claims(tolerates=None)

    @hookimpl
    def setup(self) -> None:
        self.calls += 1

    @hookimpl
    def privatize(self, update: Update) -> Update:
        self.calls += 1
        return update


def test_plugins_may_be_equal_mutable_and_unhashable(make_kernel: MakeKernel) -> None:
    """``attrs.define`` makes instances that equal each other and have no hash."""
    kernel = make_kernel({"a": Counting, "b": Counting, "c": Counting})
    kernel.privatize(UPDATE, ROUND)
    assert [plugin.instance.calls for plugin in kernel.enabled[:3]] == [2, 2, 2]  # type: ignore[attr-defined]


def test_equal_frozen_plugins_are_each_called(make_kernel: MakeKernel) -> None:
    called: list[int] = []

    def setup(_self: object) -> None:
        called.append(1)

    item = plugin(setup=setup)
    make_kernel({"a": item, "b": item})
    assert called == [1, 1]


CALLS: dict[str, Callable[[Kernel], object]] = {
    "setup": lambda kernel: kernel.setup(make_node_info()),
    "round_opened": lambda kernel: kernel.round_opened(ROUND),
    "round_closed": lambda kernel: kernel.round_closed(OUTCOME),
    "transport": lambda kernel: kernel.transport(make_node_info()),
    "identity": lambda kernel: kernel.identity(None),
    "key_index": lambda kernel: kernel.key_index(bytes(32)),
    "link_keys": lambda kernel: kernel.link_keys(),
    "observe": lambda kernel: kernel.observe(Evidence(bytes(32), Fault.BANNED, "kernel", 1)),
    "privatize": lambda kernel: kernel.privatize(UPDATE, ROUND),
    "prove": lambda kernel: kernel.prove(UPDATE, ROUND),
    "revealable": lambda kernel: kernel.revealable(MADE, ROUND),
    "reveal": lambda kernel: kernel.reveal(UPDATES, (), ROUND),
    "aggregate": lambda kernel: kernel.aggregate(UPDATES, ROUND),
    "wrap_aggregate": lambda kernel: kernel.aggregate(UPDATES, ROUND),
    "screen": lambda kernel: kernel.screen(UPDATES, HELD_OUT, ROUND),
}


def with_hook(make_kernel: MakeKernel, hook: str, answer: Callable[[], object]) -> Kernel:
    def method(_self: object) -> object:
        return answer()

    hooks: dict[str, Any] = {hook: method}
    if hook == "prove":
        hooks["verify"] = lambda _self: ACCEPT
    if hook == "revealable":
        hooks["reveal"] = lambda _self, updates: updates
    return make_kernel({"toy": plugin(**hooks)}, set_up=False)


@pytest.mark.parametrize("hook", CALLS)
def test_an_exception_is_named_and_chained(make_kernel: MakeKernel, hook: str) -> None:
    cause = ZeroDivisionError("by zero")

    def answer() -> object:
        raise cause

    with pytest.raises(HookError) as caught:
        CALLS[hook](with_hook(make_kernel, hook, answer))
    assert str(caught.value) == f"QRES-E701 plugins.toy.{hook}: ZeroDivisionError: by zero"
    assert caught.value.__cause__ is cause


@pytest.mark.parametrize("hook", CALLS)
def test_a_named_error_passes_with_a_note(make_kernel: MakeKernel, hook: str) -> None:
    raised = ValueRefusedError.of("QRES-E505", "updates", "too few")

    def answer() -> object:
        raise raised

    with pytest.raises(ValueRefusedError) as caught:
        CALLS[hook](with_hook(make_kernel, hook, answer))
    assert caught.value is raised
    assert raised.__notes__ == [f"in hook {hook!r} of plugin 'toy'"]


# ── results ───────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class SpecialUpdate(Update):
    """A subclass could change under the next plugin's hands."""


LONG = Update(vector(1, 2, 3))
WRONG: list[tuple[str, str, object]] = [
    *(
        (hook, name, value)
        for hook in ("aggregate", "wrap_aggregate")
        for name, value in {
            "nothing": None,
            "list": [1, 2],
            "float": np.zeros(2),
            "int64": np.zeros(2, dtype=np.int64),
            "other byte order": np.zeros(2, dtype=">i4"),
            "short": vector(1),
            "long": vector(1, 2, 3),
            "empty": vector(),
            "matrix": np.zeros((1, 2), dtype=np.int32),
            "scalar": np.int32(5),
            "updates": UPDATES,
        }.items()
    ),
    *(
        ("screen", name, value)
        for name, value in {
            "nothing": None,
            "senders": list(UPDATES.senders),
            "in favour": Screening(
                (Evidence(UPDATES.senders[0], Merit.CONTRIBUTED, "toy", 1),)  # type: ignore[arg-type]
            ),
            "a stranger": Screening((Accusation(b"?" * 32, "bad"),)),
            "a stranger's share": Screening(shares={b"?" * 32: 1}),
        }.items()
    ),
    *(
        ("privatize", name, value)
        for name, value in {
            "nothing": None,
            "vector": vector(1, 2),
            "long": LONG,
            "subclass": SpecialUpdate(vector(1, 2)),
            "updates": UPDATES,
        }.items()
    ),
    *(
        ("revealable", name, value)
        for name, value in {
            "nothing": None,
            "a list": [MADE[0].sender],
            "a stranger": (b"?" * 32,),
            "contributions": MADE,
        }.items()
    ),
    *(
        ("reveal", name, value)
        for name, value in {
            "nothing": None,
            "update": UPDATE,
            "matrix": UPDATES.vectors,
            "long": make_updates([[1, 2, 3]]),
        }.items()
    ),
    *(("prove", name, value) for name, value in {"nothing": None, "text": "x", "int": 5}.items()),
    *(
        ("identity", name, value)
        for name, value in {"nothing": None, "text": "x" * 32, "short": bytes(31)}.items()
    ),
    *(
        ("key_index", name, value)
        for name, value in {"nothing": None, "true": True, "minus": -1, "many": 2**15}.items()
    ),
    *(
        ("link_keys", name, value)
        for name, value in {"nothing": None, "bytes": bytes(32), "class": LinkKeys}.items()
    ),
    *(
        ("transport", name, value)
        for name, value in {"nothing": None, "int": 5, "class": MemoryTransport}.items()
    ),
    ("round_opened", "true", True),
    ("round_opened", "list", []),
]


@pytest.mark.parametrize(
    ("hook", "value"),
    [(hook, value) for hook, _name, value in WRONG],
    ids=[f"{hook}: {name}" for hook, name, _value in WRONG],
)
def test_what_a_hook_must_not_return_is_refused(
    make_kernel: MakeKernel, hook: str, value: object
) -> None:
    with pytest.raises(HookError) as caught:
        CALLS[hook](with_hook(make_kernel, hook, lambda: value))
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("QRES-E702", f"plugins.toy.{hook}")
    assert "expected" in problem.what


def test_an_aggregate_cannot_be_changed_afterwards(make_kernel: MakeKernel) -> None:
    kept = vector(1, 2)
    kernel = make_kernel({"toy": returning("aggregate", kept)})
    merged = kernel.aggregate(UPDATES, ROUND)
    kept[0] = 99
    assert merged.tolist() == [1, 2]
    assert not merged.flags.writeable


def test_updates_cannot_be_changed_by_a_plugin(make_kernel: MakeKernel) -> None:
    def wrap_aggregate(_self: object, proceed: Proceed, updates: Updates) -> Vector:
        updates.vectors[0, 0] = 99
        return proceed(updates)

    with pytest.raises(HookError, match=r"plugins\.toy\.wrap_aggregate: ValueError: .*read-only"):
        make_kernel({"toy": plugin(wrap_aggregate=wrap_aggregate)}).aggregate(UPDATES, ROUND)


# ── chains ────────────────────────────────────────────────────────────────────────────────────────


def affine(factor: int, offset: int) -> type[object]:
    """``privatize`` is ``x -> factor x + offset``, ``reveal`` its inverse: order shows."""

    def privatize(_self: object, update: Update) -> Update:
        return attrs.evolve(update, vector=(update.vector * factor + offset).astype(np.int32))

    def reveal(_self: object, updates: Updates) -> Updates:
        return attrs.evolve(updates, vectors=(updates.vectors - offset) // factor)

    return plugin(privatize=privatize, reveal=reveal)


def test_privatize_runs_in_file_order_and_reveal_undoes_it(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"double": affine(2, 0), "add": affine(1, 5), "triple": affine(3, 1)})
    hidden = kernel.privatize(UPDATE, ROUND)
    assert hidden.vector.tolist() == [(2 * x + 5) * 3 + 1 for x in (1, 2)]
    assert hidden.weight == UPDATE.weight
    revealed = kernel.reveal(make_updates([hidden.vector]), (), ROUND)
    assert revealed.vectors.tolist() == [[1, 2]]


def choosing(kept: Callable[[list[int]], list[int]]) -> type[object]:
    """Has those revealed of whose first coordinates a test keeps some."""

    def revealable(_self: object, contributions: tuple[Contribution, ...]) -> tuple[NodeId, ...]:
        left = kept([int(item.vector[0]) for item in contributions])
        return tuple(item.sender for item in contributions if int(item.vector[0]) in left)

    return plugin(revealable=revealable, reveal=lambda _self, updates: updates)


def test_what_any_plugin_leaves_out_is_not_revealed_with_the_others(
    make_kernel: MakeKernel,
) -> None:
    at_least_two = choosing(lambda found: found if len(found) > 1 else [])
    at_most_two = choosing(lambda found: found[:2])
    not_the_first = choosing(lambda found: [item for item in found if item != 1])

    def left(*plugins: type[object]) -> list[int]:
        kernel = make_kernel({f"p{place}": item for place, item in enumerate(plugins)})
        return [int(item.vector[0]) for item in kernel.revealable(MADE, ROUND)]

    assert left() == [1, 2, 3]
    assert left(at_least_two) == [1, 2, 3]
    assert left(at_most_two, not_the_first) == [2]
    # What one leaves out matters to another, wherever it stands in the file.
    assert left(at_least_two, at_most_two, not_the_first) == []
    assert left(not_the_first, at_most_two, at_least_two) == [2, 3]
    assert make_kernel({"p": at_least_two}).revealable((), ROUND) == ()


def test_another_order_in_the_file_is_another_result(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"add": affine(1, 5), "double": affine(2, 0)})
    assert kernel.privatize(UPDATE, ROUND).vector.tolist() == [12, 14]


def test_empty_chains_change_nothing(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({})
    assert kernel.privatize(UPDATE, ROUND) is UPDATE
    assert kernel.reveal(UPDATES, (), ROUND) is UPDATES
    assert kernel.prove(UPDATE, ROUND) == {}
    assert kernel.round_opened(ROUND) == {}
    assert kernel.identity(bytes(32)) is None


def test_reveal_is_shown_what_was_sent(make_kernel: MakeKernel) -> None:
    seen: list[object] = []

    def reveal(_self: object, updates: Updates, contributions: object) -> Updates:
        seen.append(contributions)
        return updates

    sent = (Contribution(make_node_ids(1)[0], bytes(32), vector(1, 2), 1),)
    make_kernel({"a": plugin(reveal=reveal)}).reveal(UPDATES, sent, ROUND)
    assert seen == [sent]


def test_what_reveal_brings_to_light_is_observed_once_all_have_revealed(
    make_kernel: MakeKernel,
) -> None:
    order: list[str] = []
    found = Accusation(make_node_info().node_id, "lied")
    told: list[Evidence] = []

    def reveal(_self: object, updates: Updates) -> Revelation:
        order.append("reveal")
        return Revelation(updates, (found,))

    def observe(_self: object, evidence: Evidence) -> None:
        told.append(evidence)
        order.append("observe")

    both = plugin(reveal=reveal)
    kernel = make_kernel({"a": both, "b": both, "watch": plugin(observe=observe)})
    assert kernel.reveal(UPDATES, (), ROUND) is UPDATES
    assert order == ["reveal", "reveal", "observe", "observe"]
    assert told == [Evidence(found.subject, f"{name}:lied", name, ROUND.number) for name in "ba"]


def test_who_is_to_blame_that_there_is_nothing_to_merge_is_observed_too(
    make_kernel: MakeKernel,
) -> None:
    found = Accusation(make_node_info().node_id, "lied")
    told: list[Evidence] = []

    def raising(_self: object) -> None:
        raise RevelationError.of("QRES-E508", "b", "no sum holds").blaming((found,))

    def observe(_self: object, evidence: Evidence) -> None:
        told.append(evidence)

    plugins = {"a": plugin(reveal=raising), "b": returning("reveal", Revelation(UPDATES, (found,)))}
    kernel = make_kernel({**plugins, "watch": plugin(observe=observe)})
    with pytest.raises(RevelationError, match="QRES-E508"):
        kernel.reveal(UPDATES, (), ROUND)
    assert [(evidence.subject, evidence.source) for evidence in told] == [
        (found.subject, name) for name in "ba"
    ]


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize("against", [[], ("text",), (Accusation(b"\xee" * 32, "x"),), None])
def test_an_accusation_that_is_none_or_of_a_stranger_is_refused(
    make_kernel: MakeKernel,
    against: Any,
    raised: bool,  # noqa: FBT001 - the case
) -> None:
    def raising(_self: object) -> None:
        raise RevelationError.of("QRES-E508", "a", "no sum holds").blaming(against)

    made = plugin(reveal=raising) if raised else returning("reveal", Revelation(UPDATES, against))
    with pytest.raises(HookError, match=r"QRES-E702 plugins\.a\.reveal: expected accusations"):
        make_kernel({"a": made}).reveal(UPDATES, (), ROUND)


def test_status_is_shown_by_plugin_and_an_error_in_its_place(make_kernel: MakeKernel) -> None:
    def broken(_self: object) -> object:
        raise ZeroDivisionError

    kernel = make_kernel(
        {
            "a": returning("status", {"epsilon": 0.5, "mode": "local", "odd": b"bytes"}),
            "b": plugin(status=broken),
            "c": returning("status", 7),
        }
    )
    shown = kernel.status()
    assert shown["a"] == {"epsilon": 0.5, "mode": "local", "odd": "b'bytes'"}
    assert "QRES-E701" in str(shown["b"]["error"])
    assert "QRES-E702" in str(shown["c"]["error"])


@pytest.mark.parametrize("raised", [ValueError, SystemExit])
def test_a_fact_that_raises_where_it_is_shown_ends_nothing(
    make_kernel: MakeKernel, raised: type[BaseException]
) -> None:
    class Fact:
        def __str__(self) -> str:
            raise raised

    kernel = make_kernel({"a": returning("status", {"fact": Fact(), "well": 1})})
    assert "QRES-E701" in str(kernel.status()["a"]["error"])


@pytest.mark.parametrize("raised", [ZeroDivisionError, SystemExit])
def test_what_a_check_raises_while_it_is_read_is_the_plugins_fault(
    make_kernel: MakeKernel, raised: type[BaseException]
) -> None:
    def told(_: int) -> Problem:
        raise raised

    @attrs.frozen
    class Lazy:
        claims = Claims(tolerates=None)

        def check(self, _around: Surroundings) -> object:
            return map(told, range(2))

        @hookimpl
        def privatize(self, update: Update) -> Update:
            return update

    with pytest.raises(CompatibilityError, match=r"QRES-E206 plugins\.lazy: 'check' raised"):
        make_kernel({"lazy": Lazy})


def test_what_depends_on_the_dimension_is_said_once_it_is_known(make_kernel: MakeKernel) -> None:
    @attrs.frozen
    class Narrow:
        claims = Claims(tolerates=None)

        def check(self, around: Surroundings) -> Sequence[Problem]:
            if around.dimension <= 3:
                return ()
            return (Problem("QRES-E313", "plugins.narrow", f"{around.dimension} coordinates"),)

        @hookimpl
        def privatize(self, update: Update) -> Update:
            return update

    kernel = make_kernel({"narrow": Narrow})
    kernel.fit(3)
    with pytest.raises(CompatibilityError, match=r"QRES-E313 plugins\.narrow: 4 coordinates"):
        kernel.fit(4)


def test_setup_says_what_is_visible_and_who_may_collude(make_kernel: MakeKernel) -> None:
    seen: list[tuple[Visibility, float]] = []

    def setup(_self: object, node_info: Any) -> None:
        seen.append((node_info.visibility, node_info.colluding))

    @attrs.frozen
    class Hider:
        claims = Claims(tolerates=None, hides=Hides(Visibility.GROUP, 3, colluding=0.25))

        @hookimpl
        def privatize(self, update: Update) -> Update:
            return update

    make_kernel({"a": plugin(setup=setup)})
    make_kernel({"a": plugin(setup=setup), "hider": Hider})
    assert seen == [(Visibility.INDIVIDUAL, 0.0), (Visibility.GROUP, 0.25)]


def test_setup_says_how_many_rows_the_rule_and_its_wrappers_need(make_kernel: MakeKernel) -> None:
    seen: list[int] = []

    def setup(_self: object, node_info: Any) -> None:
        seen.append(node_info.rows)

    @attrs.frozen
    class Pairs:
        claims = Claims(tolerates=None, needs=Needs(min_updates=2), wraps=Wraps(merges=2))

        @hookimpl
        def wrap_aggregate(self, proceed: Proceed, updates: Updates) -> Vector:
            return proceed(updates)

    make_kernel({"a": plugin(setup=setup)})
    make_kernel({"a": plugin(setup=setup), "pairs": Pairs})
    assert seen == [1, 2]


def test_setup_says_whether_noise_is_added(make_kernel: MakeKernel) -> None:
    seen: list[bool] = []

    def setup(_self: object, node_info: Any) -> None:
        seen.append(node_info.noised)

    @attrs.frozen
    class Noisy:
        claims = Claims(tolerates=None)
        noise: float = 0.0

        @hookimpl
        def privatize(self, update: Update) -> Update:
            return update

        def passes(self, extent: Extent, around: Surroundings) -> Extent:
            del around
            return attrs.evolve(extent, noise=self.noise)

    make_kernel({"a": plugin(setup=setup)})
    make_kernel({"a": plugin(setup=setup), "quiet": Noisy})
    make_kernel({"a": plugin(setup=setup), "noisy": Noisy}, {"noisy": {"noise": 0.5}})
    assert seen == [False, False, True]


def test_proofs_are_kept_by_plugin(make_kernel: MakeKernel) -> None:
    def prover(proof: bytes) -> type[object]:
        return plugin(prove=lambda _self: proof, verify=lambda _self: ACCEPT)

    kernel = make_kernel({"b": prover(b"two"), "a": prover(b"one")})
    assert kernel.prove(UPDATE, ROUND) == {"a": b"one", "b": b"two"}


def wrapper(inward: int, outward: int) -> type[object]:
    def wrap_aggregate(_self: object, proceed: Proceed, updates: Updates) -> Vector:
        inner = attrs.evolve(updates, vectors=(updates.vectors * inward).astype(np.int32))
        return (proceed(inner) + outward).astype(np.int32)

    return plugin(wrap_aggregate=wrap_aggregate)


def first(_self: object, updates: Updates) -> Vector:
    return check_vector(updates.vectors[0], "first")


def test_wrappers_nest_in_file_order(make_kernel: MakeKernel) -> None:
    def clip(_self: object, proceed: Proceed, updates: Updates) -> Vector:
        return proceed(updates).clip(0, 15)

    rule = plugin(aggregate=first)
    inside = make_kernel({"add": wrapper(10, 7), "clip": plugin(wrap_aggregate=clip), "rule": rule})
    assert inside.aggregate(UPDATES, ROUND).tolist() == [10 + 7, 15 + 7]
    outside = make_kernel(
        {"rule": rule, "clip": plugin(wrap_aggregate=clip), "add": wrapper(10, 7)}
    )
    assert outside.aggregate(UPDATES, ROUND).tolist() == [15, 15]


def test_a_wrapper_may_proceed_often_or_never(make_kernel: MakeKernel) -> None:
    def both(_self: object, proceed: Proceed, updates: Updates) -> Vector:
        head = updates.take(np.array([0]))
        tail = updates.take(np.array([1, 2]))
        return (proceed(head) + proceed(tail)).astype(np.int32)

    rule = plugin(aggregate=first)
    twice = make_kernel({"both": plugin(wrap_aggregate=both), "rule": rule})
    assert twice.aggregate(UPDATES, ROUND).tolist() == [4, 6]
    never = make_kernel({"still": returning("wrap_aggregate", vector(0, 0)), "rule": rule})
    assert never.aggregate(UPDATES, ROUND).tolist() == [0, 0]


@pytest.mark.parametrize(
    "given", [None, UPDATES.vectors, make_updates([[1, 2, 3]])], ids=["nothing", "matrix", "long"]
)
def test_a_wrapper_that_passes_on_the_wrong_thing_is_named(
    make_kernel: MakeKernel, given: object
) -> None:
    def wrap_aggregate(_self: object, proceed: Proceed) -> Vector:
        return proceed(given)

    kernel = make_kernel(
        {"sly": plugin(wrap_aggregate=wrap_aggregate), "rule": plugin(aggregate=first)}
    )
    with pytest.raises(HookError, match=r"QRES-E702 plugins\.sly\.wrap_aggregate: .*proceed"):
        kernel.aggregate(UPDATES, ROUND)


def test_an_error_of_the_rule_keeps_its_author_through_wrappers(make_kernel: MakeKernel) -> None:
    def aggregate(_self: object) -> Vector:
        raise OverflowError("too much")

    kernel = make_kernel({"outer": wrapper(1, 0), "rule": plugin(aggregate=aggregate)})
    with pytest.raises(HookError, match=r"QRES-E701 plugins\.rule\.aggregate") as caught:
        kernel.aggregate(UPDATES, ROUND)
    assert caught.value.__notes__ == ["in hook 'wrap_aggregate' of plugin 'outer'"]


# ── life cycle ────────────────────────────────────────────────────────────────────────────────────


def ending(log: list[str], name: str, error: Exception | None = None) -> type[object]:
    def teardown(_self: object) -> None:
        log.append(name)
        if error is not None:
            raise error

    return plugin(teardown=teardown)


def test_teardown_runs_backwards_to_the_end_and_reports_all_errors(
    make_kernel: MakeKernel,
) -> None:
    log: list[str] = []
    refusal = PluginError.of("QRES-E206", "x", "y")
    kernel = make_kernel(
        {
            "a": ending(log, "a", OSError("disk")),
            "b": ending(log, "b"),
            "c": ending(log, "c", refusal),
            "d": ending(log, "d"),
        }
    )
    with pytest.raises(ExceptionGroup, match="teardown failed") as caught:
        kernel.teardown()
    assert log == ["d", "c", "b", "a"]
    assert caught.value.exceptions[0] is refusal
    assert str(caught.value.exceptions[1]) == "QRES-E701 plugins.a.teardown: OSError: disk"


def test_setup_stops_at_the_first_error(make_kernel: MakeKernel) -> None:
    log: list[str] = []

    def setup(_self: object) -> None:
        raise OSError("no key")

    broken, later = plugin(setup=setup), plugin(setup=lambda _self: log.append("x"))
    with pytest.raises(HookError, match=r"plugins\.broken\.setup"):
        make_kernel({"broken": broken, "later": later})
    assert log == []


class Talk:
    """The least dialogue."""

    ready = True
    finished = True

    def start(self) -> Sequence[Send]:
        return ()

    def receive(self, _message: DialogueMessage) -> Sequence[Send]:
        return ()

    def tick(self, _now: float) -> Sequence[Send]:
        return ()

    def decided(self, *_agreed: object) -> Sequence[Send]:
        return ()


def test_dialogues_are_kept_by_plugin(make_kernel: MakeKernel) -> None:
    talk = Talk()
    kernel = make_kernel(
        {
            "quiet": returning("round_opened", None),
            "talker": returning("round_opened", talk),
        }
    )
    assert kernel.round_opened(ROUND) == {"talker": talk}


def test_a_class_is_no_dialogue(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"toy": returning("round_opened", Talk)})
    with pytest.raises(HookError, match=r"QRES-E702 plugins\.toy\.round_opened"):
        kernel.round_opened(ROUND)


def test_rounds_are_announced_as_they_are(make_kernel: MakeKernel) -> None:
    heard: list[object] = []

    def round_opened(_self: object, round_info: RoundInfo) -> None:
        heard.append(round_info)

    def round_closed(_self: object, outcome: Outcome) -> None:
        heard.append(outcome)

    kernel = make_kernel({"toy": plugin(round_opened=round_opened, round_closed=round_closed)})
    kernel.round_opened(ROUND)
    kernel.round_closed(OUTCOME)
    assert heard == [ROUND, OUTCOME]


# ── identity, admission, transport ────────────────────────────────────────────────────────────────

PEER = make_node_ids(4)[2]


def test_an_identity_is_asked_for_with_the_seed(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"key": plugin(identity=lambda _self, seed: seed)})
    assert kernel.identity(bytes(range(32))) == bytes(range(32))


def test_a_neighbour_is_admitted_if_every_plugin_accepts(make_kernel: MakeKernel) -> None:
    def only(credential_wanted: bytes) -> type[object]:
        def admit(_self: object, peer: NodeId, credential: bytes) -> Verdict:
            return ACCEPT if (peer, credential) == (PEER, credential_wanted) else reject("no")

        return plugin(admit=admit)

    kernel = make_kernel({"one": only(b"card")})
    assert kernel.admit(PEER, b"card") is ACCEPT
    assert kernel.admit(PEER, b"forged").reason == "no"
    both = make_kernel({"one": only(b"card"), "two": only(b"other")})
    assert not both.admit(PEER, b"card").accepted


def test_a_change_is_approved_if_every_plugin_accepts(make_kernel: MakeKernel) -> None:
    def only(wanted: bytes) -> type[object]:
        def approve(_self: object, digest: bytes, approval: bytes, now: float) -> Verdict:
            return ACCEPT if (digest, approval, now) == (b"d" * 32, wanted, 5.0) else reject("no")

        return plugin(approve=approve)

    kernel = make_kernel({"one": only(b"yes")})
    assert kernel.approved(b"d" * 32, b"yes", 5.0)
    assert not kernel.approved(b"d" * 32, b"no", 5.0)
    assert not kernel.approved(b"e" * 32, b"yes", 5.0)
    assert not make_kernel({"one": only(b"yes"), "two": only(b"aye")}).approved(
        b"d" * 32, b"yes", 5.0
    )
    assert not make_kernel({"odd": returning("approve", "yes")}).approved(b"d" * 32, b"", 5.0)
    assert not make_kernel({}).approved(b"d" * 32, b"yes", 5.0), "nobody knows an authority"
    assert kernel.authority(5.0) is None, "members decide"
    asked = make_kernel({"one": only(b"yes")}, authority="ca").authority(5.0)
    assert asked is not None
    assert asked(b"d" * 32, b"yes")
    assert not asked(b"d" * 32, b"no")


@pytest.mark.parametrize("answer", [None, True, "yes"])
def test_an_admission_that_is_no_verdict_is_a_refusal(
    make_kernel: MakeKernel, answer: object
) -> None:
    kernel = make_kernel({"odd": returning("admit", answer)})
    assert not kernel.admit(PEER, b"").accepted


def test_a_banned_neighbour_is_not_admitted(make_kernel: MakeKernel) -> None:
    gate = returning("reputation", Standing(banned=True))
    assert make_kernel({"gate": gate}).admit(PEER, b"").reason == "banned"


def test_the_transport_is_given_the_admission(make_kernel: MakeKernel) -> None:
    asked: list[Verdict] = []

    def transport(_self: object, node_info: Any, admission: Any) -> MemoryTransport:
        asked.append(admission(PEER, b""))
        return MemoryTransport(node_info.node_id, node_info.swarm, 1)

    def admit(_self: object) -> Verdict:
        return reject("closed")

    kernel = make_kernel({"net": plugin(transport=transport, admit=admit)})
    assert isinstance(kernel.transport(make_node_info()), MemoryTransport)
    assert asked == [reject("closed")]


# ── other members ─────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Grouper:
    """Needs the nodes for a group, and finds one of them by name."""

    size: int = 3
    wanted: str = ""

    @hookimpl
    def status(self) -> dict[str, object]:
        return {}

    def check(self, around: Surroundings) -> Iterator[Problem]:
        if around.nodes < self.size:
            yield Problem("QRES-E314", "plugins.grouper.size", f"{around.nodes} make no group", "")
        if self.wanted and self.wanted not in around.roster:
            yield Problem("QRES-E304", "plugins.grouper.wanted", "it is gone", "")


def test_a_change_of_members_is_asked_about_before_it_is_made(make_kernel: MakeKernel) -> None:
    ids = make_node_ids(6)
    kernel = make_kernel({"grouper": Grouper}, {"grouper": {"size": 4}})
    assert kernel.refusals(ids, 0, 3) == ()
    assert kernel.refusals(ids[:4], 0, 3) == ()
    (problem,) = kernel.refusals(ids[:3], 0, 2)
    assert (problem.code, problem.where) == ("QRES-E314", "plugins.grouper.size")
    assert kernel.swarm.nodes == 4, "nothing changed"
    assert [problem.code for problem in kernel.refusals(ids, 2, 3)] == ["QRES-E307", "QRES-E309"]
    assert [problem.code for problem in kernel.refusals(ids[:4], 0, 5)] == ["QRES-E105"]


def test_a_member_that_the_options_name_is_missed(make_kernel: MakeKernel) -> None:
    ids = make_node_ids(6)
    kernel = make_kernel({"grouper": Grouper}, {"grouper": {"wanted": ""}})
    assert kernel.refusals(ids, 0, 3) == ()
    ids_text = [node.hex() for node in ids]
    kernel = make_kernel(
        {"grouper": Grouper}, {"grouper": {"wanted": ids_text[5]}}, roster=ids_text[2:]
    )
    assert kernel.refusals(ids[2:], 0, 3) == ()
    (problem,) = kernel.refusals(ids[:5], 0, 3)
    assert problem.where == "plugins.grouper.wanted"


def test_what_does_not_fit_the_model_counts_once_its_dimension_is_known(
    make_kernel: MakeKernel,
) -> None:
    def check(_self: object, around: Surroundings) -> Iterator[Problem]:
        if around.nodes * around.dimension > 50:
            yield Problem("QRES-E313", "plugins.wide", "too many", "")

    body = {"status": hookimpl(lambda _self: {}), "check": check}
    kernel = make_kernel({"wide": attrs.make_class("Wide", [], class_body=body)})
    ids = make_node_ids(6)
    assert kernel.refusals(ids, 0, 3) == ()
    kernel.fit(10)
    assert [problem.code for problem in kernel.refusals(ids, 0, 3)] == ["QRES-E313"]
    assert kernel.refusals(ids[:5], 0, 3) == ()


# ── construction ──────────────────────────────────────────────────────────────────────────────────


def test_a_kernel_knows_what_it_runs(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"toy": returning("setup", None)})
    assert [plugin.name for plugin in kernel.enabled] == ["toy", "memory", "mean"]
    assert kernel.has("setup")
    assert not kernel.has("authenticate")
    assert [text.split(":")[0] for text in kernel.solution.notices] == ["INSECURE", "INSECURE"]


def test_from_config_looks_at_the_environment_if_not_told_otherwise(
    make_config: Callable[..., Config],
) -> None:
    kernel = Kernel.from_config(make_config({"memory": {"capacity": 7}, "mean": {}}))
    memory, mean = (plugin.instance for plugin in kernel.enabled)
    assert memory == Memory(7)
    assert mean == Mean()
    assert all(isinstance(plugin, Enabled) for plugin in kernel.enabled)
