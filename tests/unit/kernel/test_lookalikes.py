"""A promise that nothing reads is refused by name, at the start and by the conformance suite."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partialmethod, wraps
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import AggregatorContract, ContractViolationError, make_node_info

from qres_core import Claims, Needs, Updates, Vector, hookimpl
from qres_core.builtin.memory import Memory
from qres_core.claims import Hides
from qres_core.contract.abilities import ABILITIES, abilities, misfits
from qres_core.errors import CompatibilityError, PluginError
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.lookalikes import nearest
from qres_core.kernel.slots import ALL_HOOKS

SWARM = SwarmConfig(name="s", nodes=10, byzantine=3, quorum=7, insecure=True)
NO_PROMISE = Claims(tolerates=None)
CLAIMED = ("aggregate", "wrap_aggregate", "privatize", "reveal", "prove", "verify")


@hookimpl
def aggregate(_self: object, updates: Updates) -> Vector:
    """Any row."""
    row: Vector = np.array(updates.vectors[0])
    return row


def rule(**body: Any) -> object:
    """A rule with these attributes; the review's experiment is one with ``need``."""
    return attrs.make_class("Rule", [], class_body={"aggregate": aggregate, **body})()


def started(plugin: object) -> Kernel:
    """A swarm that promises to withstand three liars starts with the rule."""
    return Kernel((enable(Memory(), "memory"), enable(plugin, "rule")), SWARM)


def refusal(plugin: object) -> str:
    """What the start of the swarm says."""
    with pytest.raises((PluginError, CompatibilityError)) as caught:
        started(plugin)
    return str(caught.value)


def of_suite(plugin: object, name: str = "test_agg_11_liars_are_withstood") -> None:
    """One test of the conformance suite."""
    body = {"make": lambda _self: plugin}
    suite: AggregatorContract = type("Suite", (AggregatorContract,), body)()
    getattr(suite, name)()


# ── the experiment of the review ──────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-config-1")
@pytest.mark.parametrize("state", [True, False], ids=["beside claims", "in place of claims"])
def test_need_for_needs_is_refused_at_the_start_and_by_every_test_of_the_suite(state: bool) -> None:  # noqa: FBT001 - a case
    body = {"claims": NO_PROMISE} if state else {}
    misspelt = rule(need=Needs(min_updates=7), **body)
    said = refusal(misspelt)
    assert "QRES-E211 plugins.rule: " in said
    assert "'need' is read by nobody (did you mean 'needs'? Write claims = Claims(needs=" in said
    tests = [name for name in dir(AggregatorContract) if name.startswith("test_agg_")]
    assert len(tests) == 22
    for name in tests:
        with pytest.raises((PluginError, ContractViolationError), match="did you mean 'needs'"):
            of_suite(misspelt, name)


@pytest.mark.control("C-config-1")
def test_with_the_right_spelling_the_promise_is_compared() -> None:
    """The control: the same rule is refused for what it says, and starts if it promises enough."""
    weak = rule(claims=Claims(tolerates=2, needs=Needs(min_updates=7)))
    assert "QRES-E309 plugins.rule: withstands 2 liars" in refusal(weak)
    strong = rule(claims=Claims(tolerates=3, needs=Needs(min_updates=7)))
    assert started(strong)
    with pytest.raises(ContractViolationError, match="QRES-AGG-11"):  # and the suite asks for it
        of_suite(strong)


def test_a_rule_that_promises_nothing_says_so() -> None:
    for unstated in (rule(), rule(claims=None), rule(claims=Needs()), rule(claims={})):
        assert "QRES-E210 plugins.rule: " in refusal(unstated)
        with pytest.raises((PluginError, ContractViolationError), match="QRES-E210"):
            of_suite(unstated)
    nothing = rule(claims=NO_PROMISE)
    assert started(nothing)
    with pytest.raises(pytest.skip.Exception, match="tolerates"):
        of_suite(nothing)


@pytest.mark.parametrize("hook", CLAIMED)
def test_rules_wrappers_privatizers_and_provers_must_have_claims(hook: str) -> None:
    marked = hookimpl(lambda _self: None)
    silent = attrs.make_class("Silent", [], class_body={hook: marked})
    with pytest.raises(PluginError, match=f"QRES-E210 plugins.silent: has the hook '{hook}'") as no:
        enable(silent(), "silent")
    assert "Claims(tolerates=" in no.value.problems[0].fix
    said = attrs.make_class("Said", [], class_body={hook: marked, "claims": NO_PROMISE})
    assert enable(said(), "said").claims == NO_PROMISE


@pytest.mark.parametrize("hook", [hook for hook in ALL_HOOKS if hook not in CLAIMED])
def test_others_may_leave_claims_out_and_then_claim_nothing(hook: str) -> None:
    silent = attrs.make_class("Silent", [], class_body={hook: hookimpl(lambda _self: None)})
    assert enable(silent(), "silent").claims == NO_PROMISE


# ── wrong shapes ──────────────────────────────────────────────────────────────────────────────────


def property_of(function: Callable[[Any], object]) -> property:
    return property(function)


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        (Claims, "'claims' is a class, not a value"),
        ({"tolerates": 3}, "'claims' is a dict, not Claims"),
        (lambda _self: NO_PROMISE, "'claims' is a method, not a value"),
        (property_of(lambda self: self.absent), "'claims' raised AttributeError"),
        (property_of(lambda _self: Claims()), "missing 1 required keyword-only argument"),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the point
        (property_of(lambda _self: Claims(tolerate=1)), "argument 'tolerate'"),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the point
        (property_of(lambda _self: Needs(tolerates=1)), "argument 'tolerates'"),  # type: ignore[call-arg] # pyright: ignore[reportCallIssue] - the point
        (property_of(lambda _self: Claims(tolerates="3")), "claims.tolerates: '3' is not allowed"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - the point
    ],
)
def test_claims_of_a_wrong_shape_are_refused(claims: object, words: str) -> None:
    said = refusal(rule(claims=claims))
    assert "QRES-E210 plugins.rule: " in said
    assert words in said


def test_claims_that_a_configuration_could_set_are_refused() -> None:
    @attrs.frozen
    class Open:
        claims: Claims = NO_PROMISE

        @hookimpl
        def aggregate(self, updates: Updates) -> Vector:
            return aggregate(self, updates)

    with pytest.raises(PluginError, match=r"QRES-E211.*'claims' is an option"):
        enable(Open(), "open")


# ── names ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(Claims)])
def test_a_claim_outside_the_claims_is_refused_whatever_it_is(name: str) -> None:
    """The names that plugins had before, as a value, a property, a method and an option."""
    for value in (True, property_of(lambda _self: 1), lambda _self: 1):
        said = refusal(rule(claims=NO_PROMISE, **{name: value}))
        assert f"{name!r} is read only as a part of 'claims'" in said
        assert f"write claims = Claims({name}=...)" in said
        assert "migrate-a-plugin" in said
    body = {"aggregate": aggregate, "claims": NO_PROMISE}
    option = attrs.make_class("Option", {name: attrs.field(default=1)}, class_body=body)
    assert "an option needs another name" in refusal(option())


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("claim", "claims"),
        ("Claims", "claims"),
        ("cliams", "claims"),
        ("need", "needs"),
        ("nedes", "needs"),
        ("hide", "hides"),
        ("hids", "hides"),
        ("average", "averages"),
        ("tolerate", "tolerates"),
        ("notice", "notices"),
        ("transferrable", "transferable"),
        ("reveals_", "reveals"),
        ("merged", "merges"),
        ("accompany", "accompanies"),
    ],
)
def test_a_misspelt_claim_is_refused_with_the_right_name(name: str, meant: str) -> None:
    said = refusal(rule(claims=NO_PROMISE, **{name: 1}))
    assert f"'{name}' is " in said
    assert repr(meant) in said or f"({meant}=" in said


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("coordinatewise", "Claims(reads=Reads.COORDINATES)"),
        ("by_products", "Claims(reads=Reads.PRODUCTS)"),
        ("looks", "Claims(reads=Reads.NOTHING)"),
        ("alters", "Claims(wraps=Wraps(alters=...))"),
        ("keeps", "Claims(privatizes=Privatizes(keeps=...))"),
        ("transferable", "Claims(verifies=Verifies(transferable=...))"),
    ],
)
def test_the_name_of_a_part_of_claims_is_refused_with_its_place(name: str, written: str) -> None:
    assert f"write claims = {written}" in refusal(rule(claims=NO_PROMISE, **{name: True}))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("privatise", "privatize"),
        ("agregate", "aggregate"),
        ("verify_al", "verify_all"),
        ("checks", "check"),
        ("pases", "passes"),
        ("kappa_bond", "kappa_bound"),
        ("need", "needs"),
        ("claim", "claims"),
    ],
)
def test_a_misspelt_method_is_refused_with_the_right_name(name: str, meant: str) -> None:
    said = refusal(rule(claims=NO_PROMISE, **{name: lambda _self: None}))
    assert f"did you mean {meant!r}?" in said


@pytest.mark.parametrize("value", [Needs(min_updates=7), Hides(), NO_PROMISE], ids=repr)
def test_a_part_of_claims_under_any_public_name_is_refused(value: object) -> None:
    kind = type(value).__name__
    body = {"aggregate": aggregate, "claims": NO_PROMISE}
    option = attrs.make_class("Option", {"promises": attrs.field(default=value)}, class_body=body)
    for plugin in (rule(claims=NO_PROMISE, requires=value), option()):
        assert f"holds {kind}(...), and is read by nobody" in refusal(plugin)
    assert started(rule(claims=NO_PROMISE, _requires=value))


@pytest.mark.parametrize("name", ALL_HOOKS)
def test_a_hook_without_its_mark_is_refused(name: str) -> None:
    if name == "aggregate":
        return
    said = refusal(rule(claims=NO_PROMISE, **{name: lambda _self: None}))
    assert f"{name!r} is the name of a hook, and it is not marked (mark it @hookimpl" in said


def test_names_of_a_plugin_s_own_are_taken() -> None:
    """Options may resemble a name, private names too, and other words are other words."""
    own = {
        "_need": 1,
        "_weights": 1,
        "bound": 1,
        "weights": 1,
        "seeds": 1,
        "tolerance": 1,
        "merge": lambda _self: None,
        "authenticate_many": lambda _self: None,
        "proof_of": lambda _self: None,
    }
    assert started(rule(claims=NO_PROMISE, **own))
    fields = {name: attrs.field(default=1) for name in ("need", "hide", "average", "claim")}
    body = {"aggregate": aggregate, "claims": NO_PROMISE}
    assert started(attrs.make_class("Options", fields, class_body=body)())


def test_no_name_that_is_read_is_near_to_another() -> None:
    fields = [field.name for field in attrs.fields(Claims)]
    for known in ((*ALL_HOOKS, *ABILITIES, "claims"), ("claims", *fields)):
        for name in known:
            assert nearest(name, known) == name
    for name in ("", "x", "__", "f", "é"):
        assert nearest(name, fields) is None


# ── hooks that would never run ────────────────────────────────────────────────────────────────────


def _of_three(_self: object, _extra: int, _updates: Updates) -> None: ...


class _Callable:
    def __call__(self, updates: Updates) -> None: ...


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"screen": hookimpl(partialmethod(_of_three, 1))}, "'screen' is marked"),
        ({"screen": partialmethod(_of_three, 1)}, "'screen' is the name of a hook"),
        ({"screen": property(hookimpl(lambda _self: None))}, "'screen' is marked"),
        ({"screen": hookimpl(_Callable())}, "'screen' is marked"),
        ({"endorse": _Callable()}, "'endorse' is the name of a hook"),
        ({"screen": lru_cache(_of_three)}, "'screen' is the name of a hook"),
        ({"scren": lru_cache(_of_three)}, "did you mean 'screen'"),
    ],
)
def test_a_hook_that_is_no_plain_method_is_refused_and_not_left_out(
    body: dict[str, Any], said: str
) -> None:
    assert said in refusal(rule(claims=NO_PROMISE, **body))


def test_what_can_be_called_under_a_name_of_its_own_starts() -> None:
    """The positive control: not every decorator is a mistake, and a class is no claim."""
    body = {"nearest": lru_cache(_of_three), "lots": _Callable(), "Notice": type("Notice", (), {})}
    assert started(rule(claims=NO_PROMISE, **body)).has("aggregate")


# ── what only the instance shows ──────────────────────────────────────────────────────────────────


def needing() -> Needs:
    """A promise that nobody would compare."""
    return Needs(min_updates=9)


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("need", attrs.field(factory=needing)),
        ("promise", attrs.field(factory=needing, init=False)),
        ("_needs", attrs.field(factory=needing)),
        ("_claims", attrs.field(default=NO_PROMISE)),
    ],
)
def test_a_part_of_claims_in_a_field_is_refused_however_it_got_there(name: str, field: Any) -> None:
    body = {"aggregate": aggregate, "claims": NO_PROMISE}
    plugin = attrs.make_class("Rule", {name: field}, class_body=body)()
    said = refusal(plugin)
    assert "QRES-E211" in said
    assert f"{name!r}" in said


def test_a_promise_that_init_puts_on_the_instance_is_refused_by_name() -> None:
    def after(self: Any) -> None:
        self.need = 9
        self._need = 9
        self.rows = 9

    body = {"aggregate": aggregate, "claims": NO_PROMISE, "__attrs_post_init__": after}
    plugin = attrs.make_class("Rule", [], slots=False, class_body=body)()
    said = refusal(plugin)
    assert "'need' is read by nobody (did you mean 'needs'?" in said
    assert "'rows'" not in said
    assert "'_need'" not in said


@pytest.mark.parametrize("name", ABILITIES)
def test_an_option_with_the_name_of_a_method_that_is_called_is_refused_by_name(name: str) -> None:
    body = {"aggregate": aggregate, "claims": NO_PROMISE}
    plugin = attrs.make_class("Rule", {name: attrs.field(default=3)}, class_body=body)()
    assert f"{name!r} is the name of a method" in refusal(plugin)


class Asked:
    """Takes whatever it is asked with, by position."""

    def check(self, *_arguments: object) -> tuple[()]:
        return ()

    def preflight(self, _info: object, _more: int = 3) -> tuple[()]:
        return ()


class Asks:
    """Wants other arguments than it is given."""

    def check(self, around: object, *, strict: bool) -> tuple[()]:
        del around, strict
        return ()

    def recall(self) -> None:
        pass


def test_a_method_beside_the_hooks_with_other_arguments_is_refused_by_name() -> None:
    def made(methods: type[object]) -> object:
        body = {"aggregate": aggregate, "claims": NO_PROMISE}
        own = {name: value for name, value in vars(methods).items() if name in ABILITIES}
        return attrs.make_class("Rule", [], class_body={**body, **own})()

    said = refusal(made(Asks))
    assert "QRES-E206" in said
    assert "'check' cannot be called with (around)" in said
    assert "'recall' cannot be called with (memory)" in said
    assert started(made(Asked)), "control"


def test_what_counts_of_a_wrapped_method_is_how_it_is_called() -> None:
    def counted(self: object, around: object, calls: list[object]) -> tuple[()]:
        del self, around, calls
        return ()

    @wraps(counted)
    def check(self: object, around: object) -> tuple[()]:
        return counted(self, around, [])

    def misfit(method: object) -> list[tuple[str, str]]:
        return list(misfits(type("Rule", (), {"check": method})))

    assert not misfit(check)
    assert misfit(counted) == [("check", "around")], "control"


def test_what_a_plugin_has_is_found_without_a_run_of_its_code() -> None:
    class Lazy:
        @property
        def check(self) -> object:
            raise AssertionError

    assert abilities(Lazy()) == {"check"}
    assert abilities(Asked()) == abilities(Asked) == {"check", "preflight"}
    assert abilities(object()) == frozenset()


# ── claims that change ────────────────────────────────────────────────────────────────────────────


def test_claims_are_read_once_so_that_every_comparison_sees_the_same() -> None:
    answers = iter((3, 0, 0, 0, 0, 0))
    body = {"claims": property(lambda _self: Claims(tolerates=next(answers)))}
    kernel = started(rule(**body))
    assert kernel.enabled[1].claims.tolerates == 3
    with pytest.raises(PluginError, match=r"QRES-E210 plugins\.rule: 'claims' changed"):
        kernel.setup(make_node_info(nodes=10, byzantine=3))


@pytest.mark.parametrize("kept", [True, False])
def test_a_plugin_that_claims_less_after_setup_starts_no_node(kept: bool) -> None:  # noqa: FBT001 - a case
    @attrs.define
    class Weakens:
        aggregate = aggregate
        f: int = 3

        @property
        def claims(self) -> Claims:
            return Claims(tolerates=self.f, effective={"f": np.array([self.f, self.f])})

        @hookimpl
        def setup(self) -> None:
            self.f = 3 if kept else 0

    kernel = started(Weakens())
    if kept:
        kernel.setup(make_node_info(nodes=10, byzantine=3))
        return
    with pytest.raises(PluginError, match=r"tolerates=3.*tolerates=0"):
        kernel.setup(make_node_info(nodes=10, byzantine=3))


def test_a_plugin_with_a_field_that_setup_fills_starts_though_it_equals_nothing_yet() -> None:
    body = {"aggregate": aggregate, "claims": NO_PROMISE}
    kind = attrs.make_class("Rule", {"_key": attrs.field(init=False)}, class_body=body)
    with pytest.raises(AttributeError):
        _ = kind() == kind()
    assert started(kind()).has("aggregate")


# ── the suite ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "meant"), [("kapa", "kappa"), ("breaks_beyonds", "breaks_beyond"), ("Draws", "draws")]
)
def test_a_misspelt_attribute_of_a_suite_is_refused_and_not_skipped(name: str, meant: str) -> None:
    with pytest.raises(PluginError, match=rf"QRES-E211 Suite: '{name}'.*did you mean '{meant}'"):
        type("Suite", (AggregatorContract,), {name: 2.0})


def test_a_suite_may_have_attributes_of_its_own() -> None:
    body = {"kappa": 2.0, "_kapa": 1.0, "plugin": None, "test_kapa": None, "make": None}
    assert type("Suite", (AggregatorContract,), body)
