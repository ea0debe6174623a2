"""A verdict is an acceptance only if it is one: every way to fail open, tried.

Where pluggy alone would accept, the test shows that first, so that it cannot pass by accident.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, NoReturn

import attrs
import pluggy
import pytest
from qres_lab.testing.builders import make_envelope, make_node_ids, make_round_info

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Contribution,
    Decision,
    Envelope,
    Verdict,
    hookimpl,
    reject,
)
from qres_core.contract.faults import Fault
from qres_core.contract.hookspecs import PROJECT, HookSpecs
from qres_core.errors import CompatibilityError, PluginError
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.kernel import Kernel

MakeKernel = Callable[..., Kernel]
SENDER, LINK, *_REST = make_node_ids(4)
HOOKS = ("authenticate", "replay_check", "verify")
YES, NO = True, False


def naive(*plugins: object) -> bool:
    """What a host would decide that trusts pluggy and truth values."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    for plugin in plugins:
        manager.register(plugin)
    message = make_envelope(sender=SENDER)
    results = manager.hook.authenticate(envelope=message, source=LINK, now=0.0, quoted=False)
    accepted = all(results)
    for result in results:
        if isinstance(result, Coroutine):
            result.close()
    return accepted


class Says:
    """Registers as an authenticator that says this; for the naive host only."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    @hookimpl
    def authenticate(self) -> object:
        return self._answer


def judge(kernel: Kernel, hook: str = "authenticate") -> Envelope | Rejection | Verdict:
    """The kernel's decision where only ``hook`` has a say."""
    if hook == "verify":
        contribution = Contribution(SENDER, bytes(32), make_vector(), 1)
        verdict, _source = kernel.verify(contribution, make_round_info())
        return verdict
    return kernel.inbound(make_envelope(sender=SENDER).to_bytes(), LINK, 0.0)


def make_vector() -> Any:
    import numpy as np  # noqa: PLC0415 - the currency of one test

    return np.zeros(1, dtype=np.int32)


def accepted(decision: Envelope | Rejection | Verdict) -> bool:
    return isinstance(decision, Envelope) or decision is ACCEPT


def reason(decision: Envelope | Rejection | Verdict) -> str:
    """The plugin's own id; a rejection names it after the plugin."""
    assert isinstance(decision, Rejection | Verdict)
    return decision.reason.rpartition(":")[2]


def worded(hook: str) -> str:
    """A hook's name as it stands in an id."""
    return hook.replace("_", "-")


def answering(hook: str, answer: Callable[[], object]) -> type[object]:
    """A plugin class whose ``hook`` gives what ``answer`` returns."""

    def method(_self: object) -> object:
        return answer()

    body: dict[str, Any] = {"claims": Claims(tolerates=None), hook: hookimpl(method)}
    return attrs.make_class("Answering", [], class_body=body)


# ── the four ways of the field ────────────────────────────────────────────────────────────────────


def test_no_authenticator_is_not_an_acceptance(make_kernel: MakeKernel) -> None:
    assert naive() is True, "all([]) accepts"
    with pytest.raises(CompatibilityError) as caught:
        make_kernel({}, insecure=False)
    assert {problem.code for problem in caught.value.problems} == {"QRES-E306"}


@pytest.mark.claim("C-config-2")
@pytest.mark.parametrize("hook", HOOKS)
def test_a_forgotten_return_is_a_rejection(make_kernel: MakeKernel, hook: str) -> None:
    assert naive(Says(None)) is True, "pluggy drops None, and all([]) accepts"
    assert naive(Says(YES), Says(None)) is True, "the others decide"
    kernel = make_kernel(
        {"good": answering(hook, lambda: ACCEPT), "bad": answering(hook, lambda: None)}
    )
    decision = judge(kernel, hook)
    assert not accepted(decision)
    assert reason(decision) == f"{worded(hook)}-gave-no-verdict"


@pytest.mark.claim("C-config-2")
def test_a_wrapper_cannot_overrule_a_rejection(make_kernel: MakeKernel) -> None:
    class Overruling:
        @hookimpl(wrapper=True)
        def authenticate(self) -> Generator[None, object, list[bool]]:
            yield
            return [True]

    assert naive(Says(NO)) is False
    assert naive(Says(NO), Overruling()) is True, "the wrapper replaces every result"

    body = {"authenticate": Overruling.authenticate}
    sly = attrs.make_class("Sly", [], class_body=body)
    with pytest.raises(PluginError, match=r"QRES-E209 .*wrapper"):
        make_kernel({"honest": answering("authenticate", lambda: reject("no")), "sly": sly})


def test_a_coroutine_is_not_an_acceptance(make_kernel: MakeKernel) -> None:
    async def answer(_self: object) -> bool:
        return False

    naive_plugin = type("Async", (), {"authenticate": hookimpl(answer)})()
    assert naive(naive_plugin) is True, "a coroutine object is truthy"

    factory = attrs.make_class("Async", [], class_body={"authenticate": hookimpl(answer)})
    with pytest.raises(PluginError, match="QRES-E208"):
        make_kernel({"async": factory})


def test_a_coroutine_from_a_plain_function_is_a_rejection(make_kernel: MakeKernel) -> None:
    async def answer() -> Verdict:
        return reject("no")

    pending = answer()
    kernel = make_kernel({"sly": answering("authenticate", lambda: pending)})
    decision = judge(kernel)
    pending.close()
    assert reason(decision) == "authenticate-gave-no-verdict"


# ── what is no verdict ────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Lenient(Verdict):
    """A subclass may say anything of itself."""

    @property
    def accepted(self) -> bool:
        return True


@attrs.frozen
class Lookalike:
    decision: Decision = Decision.ACCEPT
    reason: str = ""
    blame: Blame = Blame.NOBODY
    accepted: bool = True


def forged(reason: object) -> Verdict:
    """A verdict that says what none can be made to say."""
    verdict = Verdict(Decision.REJECT, "no", Blame.LINK)
    object.__setattr__(verdict, "reason", reason)
    return verdict


class EqualToAll:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


NO_VERDICTS: dict[str, object] = {
    "true": True,
    "one": 1,
    "text": "accept",
    "decision": Decision.ACCEPT,
    "list": [ACCEPT],
    "tuple": (ACCEPT,),
    "the class": Verdict,
    "subclass": Lenient(Decision.ACCEPT),
    "lookalike": Lookalike(),
    "equal to all": EqualToAll(),
    "reason is no text": forged(["unhashable"]),
    "reason is a sentence": forged("Bad proof!"),
    "reason is in another's name": forged("other:bad-proof"),
    "reason is the kernel's to find": Verdict(Decision.REJECT, Fault.EQUIVOCATION, Blame.LINK),
    "blame is no blame": Verdict(Decision.REJECT, "no", "sender"),  # type: ignore[arg-type]
}


@pytest.mark.claim("C-config-2")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("answer", NO_VERDICTS.values(), ids=NO_VERDICTS)
def test_what_is_no_verdict_is_a_rejection_that_blames_nobody(
    make_kernel: MakeKernel, hook: str, answer: object
) -> None:
    decision = judge(make_kernel({"odd": answering(hook, lambda: answer)}), hook)
    assert isinstance(decision, Rejection | Verdict)
    assert reason(decision) == f"{worded(hook)}-gave-no-verdict"
    assert decision.blame is Blame.NOBODY


@pytest.mark.control("C-config-2")
def test_truthy_answers_would_fool_a_naive_host() -> None:
    for name in ("true", "one", "text", "decision", "list", "the class", "lookalike"):
        assert naive(Says(NO_VERDICTS[name])) is True


def test_a_verdict_whose_decision_is_no_decision_is_a_rejection(make_kernel: MakeKernel) -> None:
    odd = Verdict("accept")  # type: ignore[arg-type]
    assert not accepted(judge(make_kernel({"odd": answering("authenticate", lambda: odd)})))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "verdict",
    [ACCEPT, Verdict(Decision.ACCEPT), Verdict(Decision.ACCEPT, "welcome", Blame.SENDER)],
    ids=["the constant", "an equal one", "one with a reason"],
)
def test_every_real_acceptance_is_one_whoever_made_it(
    make_kernel: MakeKernel, hook: str, verdict: Verdict
) -> None:
    """``ACCEPT`` is the usual way to say it; any Verdict with that decision says the same."""
    assert accepted(judge(make_kernel({"fine": answering(hook, lambda: verdict)}), hook))


# ── all must accept ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_rejection_decides_wherever_it_stands(
    make_kernel: MakeKernel, hook: str, position: int
) -> None:
    answers = [ACCEPT, ACCEPT, ACCEPT]
    answers[position] = reject("no")
    plugins = {
        f"p{index}": answering(hook, partial(answers.__getitem__, index)) for index in range(3)
    }
    assert reason(judge(make_kernel(plugins), hook)) == "no"


def test_after_a_rejection_nobody_else_is_asked(make_kernel: MakeKernel) -> None:
    def never() -> NoReturn:
        raise AssertionError

    kernel = make_kernel(
        {
            "first": answering("authenticate", lambda: reject("no")),
            "second": answering("authenticate", never),
        }
    )
    decision = judge(kernel)
    assert isinstance(decision, Rejection)
    assert (decision.reason, decision.source) == ("first:no", "first")
    assert dict(kernel.rejections) == {"first:no": 1}


# ── a verdict that raises ─────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-config-2")
@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(
    "error", [ValueError("x"), ZeroDivisionError(), PluginError.of("QRES-E206", "x", "y")]
)
def test_a_hook_that_raises_rejects_and_is_counted_by_name(
    make_kernel: MakeKernel, hook: str, error: Exception
) -> None:
    def answer() -> NoReturn:
        raise error

    kernel = make_kernel(
        {"good": answering(hook, lambda: ACCEPT), "broken": answering(hook, answer)}
    )
    decision = judge(kernel, hook)
    assert isinstance(decision, Rejection | Verdict)
    assert (reason(decision), decision.blame) == (f"{worded(hook)}-raised", Blame.NOBODY)
    if isinstance(decision, Rejection):
        assert (decision.source, decision.subject) == ("broken", None)
    assert kernel.rejections[f"broken:{worded(hook)}-raised-{type(error).__name__.lower()}"] == 1


def test_an_interrupt_is_not_swallowed(make_kernel: MakeKernel) -> None:
    def answer() -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(make_kernel({"slow": answering("authenticate", answer)}))


# ── together ──────────────────────────────────────────────────────────────────────────────────────


def several(count: int = 3) -> list[Contribution]:
    return [Contribution(SENDER, bytes([n]) * 32, make_vector(), 1) for n in range(count)]


def checking(alone: Callable[[Contribution], object], together: object) -> type[object]:
    """A plugin class whose ``verify`` is ``alone`` and whose ``verify_all`` gives ``together``."""

    def verify(_self: object, contribution: Contribution) -> object:
        return alone(contribution)

    def verify_all(_self: object, contributions: tuple[Contribution, ...]) -> object:
        return together(contributions) if callable(together) else together

    body: dict[str, Any] = {
        "claims": Claims(tolerates=None),
        "verify": hookimpl(verify),
        "verify_all": hookimpl(verify_all),
    }
    return attrs.make_class("Checking", [], class_body=body)


def second_is_bad(contribution: Contribution) -> Verdict:
    return reject("bad", blame=Blame.SENDER) if contribution.digest[0] == 1 else ACCEPT


def fails(_contributions: object) -> NoReturn:
    raise RuntimeError


def test_many_are_checked_by_one_question(make_kernel: MakeKernel) -> None:
    asked: list[int] = []

    def together(contributions: tuple[Contribution, ...]) -> list[Verdict]:
        asked.append(len(contributions))
        return [second_is_bad(contribution) for contribution in contributions]

    def never(_one: Contribution) -> Verdict:
        raise AssertionError

    kernel = make_kernel({"bulk": checking(never, together)})
    found = kernel.verify_all(several(), make_round_info())
    assert [(item.reason, name) for item, name in found] == [("", ""), ("bad", "bulk"), ("", "")]
    assert asked == [3]


@pytest.mark.parametrize(
    "together",
    [fails, None, [], [ACCEPT], [ACCEPT] * 4, "yes", lambda _all: (item for item in ())],
    ids=["raises", "none", "empty", "too few", "too many", "text", "generator"],
)
def test_a_failing_hook_for_many_is_replaced_by_the_one_for_each(
    make_kernel: MakeKernel, together: object
) -> None:
    kernel = make_kernel({"bulk": checking(second_is_bad, together)})
    found = kernel.verify_all(several(), make_round_info())
    assert [item is ACCEPT for item, _name in found] == [True, False, True]


def test_what_is_no_verdict_among_many_rejects_that_one(make_kernel: MakeKernel) -> None:
    kernel = make_kernel({"bulk": checking(second_is_bad, [ACCEPT, True, ACCEPT])})
    found = kernel.verify_all(several(), make_round_info())
    assert [item.reason for item, _name in found] == ["", "verify-all-gave-no-verdict", ""]


def test_what_one_plugin_refuses_the_next_is_not_asked_about(make_kernel: MakeKernel) -> None:
    seen: list[bytes] = []

    def note(contributions: tuple[Contribution, ...]) -> list[Verdict]:
        seen.extend(contribution.digest[:1] for contribution in contributions)
        return [ACCEPT] * len(contributions)

    kernel = make_kernel(
        {
            "first": answering_each("verify", second_is_bad),
            "second": checking(lambda _one: ACCEPT, note),
        }
    )
    found = kernel.verify_all(several(), make_round_info())
    assert [name for _one, name in found] == ["", "first", ""]
    assert seen == [b"\0", b"\2"]


def answering_each(hook: str, answer: Callable[[Contribution], object]) -> type[object]:
    def method(_self: object, contribution: Contribution) -> object:
        return answer(contribution)

    body: dict[str, Any] = {"claims": Claims(tolerates=None), hook: hookimpl(method)}
    return attrs.make_class("Each", [], class_body=body)
