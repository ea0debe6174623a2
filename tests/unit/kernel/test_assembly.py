"""From names in a file to plugin instances, or to every reason why not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from importlib.metadata import EntryPoint
from typing import Any

import attrs
import pytest

from qres_core import ACCEPT, Claims, Needs, Verdict, Visibility, hookimpl, options
from qres_core.claims import Hides
from qres_core.errors import PluginError
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed, Status
from qres_core.kernel.index import plugin_index

MakeConfig = Callable[..., Config]


@attrs.frozen
class Inner:
    depth: int = 1


@attrs.frozen
class Options:
    """One option of every kind a plugin may have."""

    f: int = attrs.field(validator=options.whole(0))
    rate: float = 0.5
    on: bool = False
    label: str = ""
    names: tuple[str, ...] = ()
    pair: tuple[int, str] = (0, "")
    many: list[int] = attrs.field(factory=list)
    distinct: frozenset[str] = frozenset()
    weights: dict[str, int] = attrs.field(factory=dict)
    limit: float | None = None
    key: bytes = b""
    inner: Inner = attrs.field(factory=Inner)
    seen: int = attrs.field(default=0, init=False)

    @hookimpl
    def setup(self) -> None: ...


def plugin(name: str = "toy", **changes: Any) -> Installed:
    return attrs.evolve(Installed(name, "qres-toy", "1.2", "qres_toy:Toy"), **changes)


def refused(make_config: MakeConfig, name: str, *found: Installed, **table: Any) -> Any:
    """The single problem of enabling ``name``."""
    with pytest.raises(PluginError) as caught:
        assemble(make_config({name: table}), {item.name: item for item in found})
    (problem,) = caught.value.problems
    return problem


def local(make_config: MakeConfig, factory: Any, **table: Any) -> Enabled:
    found = {"toy": Installed.local("toy", factory)}
    (enabled,) = assemble(make_config({"toy": table}), found)
    return enabled


def local_problems(make_config: MakeConfig, factory: Any, **table: Any) -> list[tuple[str, str]]:
    with pytest.raises(PluginError) as caught:
        local(make_config, factory, **table)
    return [(problem.code, str(problem)) for problem in caught.value.problems]


# ── the gate ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-config-7")
@pytest.mark.parametrize(("name", "distribution"), plugin_index().distributions.items())
def test_a_missing_first_party_plugin_is_named_with_its_distribution(
    make_config: MakeConfig, name: str, distribution: str
) -> None:
    problem = refused(make_config, name)
    assert (problem.code, problem.where) == ("QRES-E201", f"plugins.{name}")
    assert problem.fix == f"install {distribution}: make node, in a checkout of QRES"


@pytest.mark.claim("C-config-7")
def test_a_misspelt_name_gets_a_suggestion_and_no_command(make_config: MakeConfig) -> None:
    """``pip install qres-krumm`` would be an invitation to whoever registers that name."""
    problem = refused(make_config, "krumm", plugin("krum"), plugin("other"))
    assert problem.code == "QRES-E201"
    assert problem.fix == "did you mean 'krum'?"
    assert "pip" not in str(problem)


def test_an_unknown_name_far_from_all_lists_what_is_known(make_config: MakeConfig) -> None:
    assert refused(make_config, "xyz", plugin("krum"), plugin("dp")).fix == "known: dp, krum"
    assert refused(make_config, "xyz").fix == "none is known"


@pytest.mark.parametrize(
    ("status", "code", "fix"),
    [
        (Status.INCOMPATIBLE, "QRES-E203", "pip install -U qres-toy qres-core"),
        (Status.CONFLICT, "QRES-E204", "pip uninstall all except one"),
        (Status.MISPLACED, "QRES-E205", "remove that folder and pip install qres-toy"),
    ],
)
def test_what_discovery_refused_is_not_enabled(
    make_config: MakeConfig, status: Status, code: str, fix: str
) -> None:
    entry_point = EntryPoint("toy", "a_module_that_must_not_be_imported:Toy", "qres.plugins")
    found = plugin(status=status, detail="because", entry_point=entry_point)
    problem = refused(make_config, "toy", found)
    assert (problem.code, problem.where, problem.fix) == (code, "plugins.toy", fix)
    assert "because" in problem.what


def test_a_plugin_without_class_or_entry_point_is_none(make_config: MakeConfig) -> None:
    assert refused(make_config, "toy", plugin()).code == "QRES-E206"


# ── what is a plugin ──────────────────────────────────────────────────────────────────────────────


class NotAttrs:
    @hookimpl
    def setup(self) -> None: ...


@attrs.frozen
class NoHook:
    f: int = 0

    def aggregate(self, updates: Any) -> Any: ...


@attrs.frozen
class WrongArgument:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, update: Any) -> Any: ...


@attrs.frozen
class KeywordOnly:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, *, updates: Any) -> Any: ...


@attrs.frozen
class PositionalOnly:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, updates: Any, /) -> Any: ...


@attrs.frozen
class Variable:
    claims = Claims(tolerates=None)

    @hookimpl
    def aggregate(self, *args: Any, **kwargs: Any) -> Any: ...


@attrs.frozen
class Misspelt:
    @hookimpl
    def autenticate(self, envelope: Any) -> Any: ...


@attrs.frozen
class Coroutine:
    @hookimpl
    async def authenticate(self) -> Verdict:
        return ACCEPT


@attrs.frozen
class AsyncGenerator:
    @hookimpl
    async def authenticate(self) -> AsyncIterator[Verdict]:
        yield ACCEPT


@attrs.frozen
class Generator:
    @hookimpl
    def authenticate(self) -> Iterator[Verdict]:
        yield ACCEPT


@attrs.frozen
class ClassMethod:
    @hookimpl
    def setup(self) -> None: ...

    @classmethod
    @hookimpl
    def authenticate(cls) -> Verdict:
        return ACCEPT


@hookimpl
def authenticate() -> Verdict:
    return ACCEPT


@attrs.frozen
class InAField:
    authenticate: Any = attrs.field(default=authenticate, init=False)

    @hookimpl
    def setup(self) -> None: ...


@pytest.mark.parametrize(
    ("factory", "code", "words"),
    [
        (NotAttrs, "QRES-E206", "not an attrs class"),
        (NoHook, "QRES-E206", "no method is marked @hookimpl"),
        (WrongArgument, "QRES-E206", "update"),
        (KeywordOnly, "QRES-E206", "keyword-only"),
        (PositionalOnly, "QRES-E206", "positional-only"),
        (Variable, "QRES-E206", "variable arguments"),
        (ClassMethod, "QRES-E206", "'authenticate' is not a plain method"),
        (InAField, "QRES-E206", "'authenticate' is not a plain method"),
        (Misspelt, "QRES-E207", "did you mean 'authenticate'?"),
        (Coroutine, "QRES-E208", "asynchronous"),
        (AsyncGenerator, "QRES-E208", "asynchronous"),
        (Generator, "QRES-E209", "generator"),
    ],
)
def test_what_is_not_a_valid_plugin_is_refused(
    make_config: MakeConfig, factory: Any, code: str, words: str
) -> None:
    ((found, message),) = local_problems(make_config, factory)
    assert found == code
    assert words in message
    assert "plugins.toy" in message
    assert factory.__qualname__ in message, "the message says which class of which distribution"


@pytest.mark.parametrize(
    "option", ["wrapper", "hookwrapper", "tryfirst", "trylast", "optionalhook"]
)
@pytest.mark.parametrize("hook", ["authenticate", "aggregate"])
def test_hooks_that_overrule_or_reorder_others_are_refused(
    make_config: MakeConfig, option: str, hook: str
) -> None:
    if option in ("wrapper", "hookwrapper"):

        def method(_self: object) -> Iterator[None]:
            yield

    else:

        def method(_self: object) -> None: ...  # type: ignore[misc]

    options: Any = {option: True}
    marked = hookimpl(**options)(method)
    factory = attrs.make_class("Sly", [], class_body={hook: marked})
    ((code, message),) = local_problems(make_config, factory)
    assert code == "QRES-E209"
    assert option in message


@pytest.mark.claim("C-config-1")
def test_a_hook_under_another_name_is_refused(make_config: MakeConfig) -> None:
    def method(self: object) -> None: ...

    marked = hookimpl(specname="authenticate")(method)
    factory = attrs.make_class("Sly", [], class_body={"setup": marked})
    ((code, _message),) = local_problems(make_config, factory)
    assert code == "QRES-E209"


def test_all_faults_of_one_class_are_reported(make_config: MakeConfig) -> None:
    body = {
        "autenticate": Misspelt.autenticate,
        "authenticate": Coroutine.authenticate,
        "aggregate": KeywordOnly.aggregate,
    }
    factory = attrs.make_class("Hopeless", [], class_body=body)
    codes = sorted(code for code, _message in local_problems(make_config, factory))
    assert codes == ["QRES-E206", "QRES-E207", "QRES-E208"]


# ── what it says of itself ────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Honest:
    f: int = 1

    @property
    def claims(self) -> Claims:
        needs = Needs(min_updates=2 * self.f + 3)
        return Claims(tolerates=self.f, needs=needs, hides=Hides(Visibility.GROUP))

    @hookimpl
    def round_closed(self) -> None: ...

    @hookimpl
    def setup(self) -> None: ...


def test_claims_depend_on_the_options(make_config: MakeConfig) -> None:
    enabled = local(make_config, Honest, f=4)
    assert enabled.claims.needs.min_updates == 11
    assert enabled.claims.hides.leaves is Visibility.GROUP


def test_hooks_are_listed_in_the_order_of_the_life_cycle(make_config: MakeConfig) -> None:
    assert local(make_config, Honest).hooks == ("setup", "round_closed")


def test_a_silent_plugin_needs_and_hides_nothing(make_config: MakeConfig) -> None:
    enabled = local(make_config, Options, f=0)
    assert enabled.claims.needs == Needs()
    assert enabled.claims.hides == Hides()


@attrs.frozen
class Slip:
    """A misspelt attribute inside the property must not read as "claims nothing"."""

    f: int = 1

    @property
    def claims(self) -> Claims:
        return Claims(tolerates=self.ff)  # type: ignore[attr-defined]

    @hookimpl
    def setup(self) -> None: ...


@attrs.frozen
class Raising:
    @property
    def claims(self) -> Claims:
        raise OSError("no disk")

    @hookimpl
    def setup(self) -> None: ...


@attrs.frozen
class WrongType:
    claims: dict[str, int] = attrs.field(factory=dict, init=False)

    @hookimpl
    def setup(self) -> None: ...


@attrs.frozen
class OneNotice:
    @property
    def claims(self) -> Claims:
        sentence: Any = "a sentence is no tuple of sentences"
        return Claims(tolerates=None, notices=sentence)

    @hookimpl
    def setup(self) -> None: ...


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (OneNotice, "'a sentence is no tuple of sentences' is no tuple of texts"),
        (Slip, "'claims' raised AttributeError"),
        (Raising, "'claims' raised OSError: no disk"),
        (WrongType, "'claims' is a dict, not Claims"),
    ],
)
def test_what_it_says_of_itself_must_be_readable(
    make_config: MakeConfig, factory: Any, words: str
) -> None:
    ((code, message),) = local_problems(make_config, factory)
    assert code == "QRES-E210"
    assert words in message


# ── options ───────────────────────────────────────────────────────────────────────────────────────


def test_options_arrive_unconverted(make_config: MakeConfig) -> None:
    table = {
        "f": 2,
        "rate": 1,
        "on": True,
        "label": "x",
        "names": ["a", "b"],
        "pair": [1, "one"],
        "many": [1, 2],
        "distinct": ["a"],
        "weights": {"a": 1},
        "limit": 2.5,
        "inner": {"depth": 3},
    }
    made = local(make_config, Options, **table).instance
    assert made == Options(
        f=2,
        rate=1.0,
        on=True,
        label="x",
        names=("a", "b"),
        pair=(1, "one"),
        many=[1, 2],
        distinct=frozenset("a"),
        weights={"a": 1},
        limit=2.5,
        inner=Inner(3),
    )
    assert isinstance(made, Options)
    assert type(made.rate) is float


@pytest.mark.parametrize(
    ("table", "code", "where", "words"),
    [
        ({}, "QRES-E103", "f", "required key is missing (add f = … to [plugins.toy])"),
        ({"f": "2"}, "QRES-E104", "f", 'expected an integer, got a string: "2"'),
        ({"f": 2.0}, "QRES-E104", "f", "expected an integer, got a number: 2.0 (write 2)"),
        ({"f": 2.7}, "QRES-E104", "f", "expected an integer, got a number: 2.7"),
        ({"f": True}, "QRES-E104", "f", "expected an integer, got a boolean: true"),
        ({"f": [2]}, "QRES-E104", "f", "expected an integer, got an array: [2]"),
        ({"f": 2**63}, "QRES-E105", "f", "64 bits"),
        ({"f": -1}, "QRES-E105", "f", "must be an integer of at least 0, got -1"),
        (
            {"f": 1, "on": "false"},
            "QRES-E104",
            "on",
            'expected a boolean, got a string: "false"',
        ),
        ({"f": 1, "on": 0}, "QRES-E104", "on", "expected a boolean, got an integer: 0"),
        ({"f": 1, "rate": "0.5"}, "QRES-E104", "rate", "expected a number, got a string"),
        ({"f": 1, "rate": False}, "QRES-E104", "rate", "expected a number, got a boolean"),
        ({"f": 1, "rate": float("nan")}, "QRES-E105", "rate", "finite"),
        ({"f": 1, "limit": float("inf")}, "QRES-E105", "limit", "finite"),
        ({"f": 1, "limit": "none"}, "QRES-E104", "limit", "expected a number, got a string"),
        (
            {"f": 1, "label": 7},
            "QRES-E104",
            "label",
            "expected a string, got an integer: 7 (put it in quotes)",
        ),
        ({"f": 1, "names": "abc"}, "QRES-E104", "names", "expected an array, got a string"),
        ({"f": 1, "names": {"a": 1}}, "QRES-E104", "names", "expected an array, got a table"),
        ({"f": 1, "names": ["a", 1]}, "QRES-E104", "names[1]", "expected a string, got an integer"),
        ({"f": 1, "pair": [1]}, "QRES-E104", "pair", "expected an array of 2"),
        ({"f": 1, "pair": [1, "a", "b"]}, "QRES-E104", "pair", "expected an array of 2"),
        ({"f": 1, "pair": ["a", "b"]}, "QRES-E104", "pair[0]", "expected an integer"),
        ({"f": 1, "many": "12"}, "QRES-E104", "many", "expected an array, got a string"),
        ({"f": 1, "distinct": "ab"}, "QRES-E104", "distinct", "expected an array, got a string"),
        ({"f": 1, "weights": [1]}, "QRES-E104", "weights", "expected a table, got an array"),
        ({"f": 1, "weights": {"a": "1"}}, "QRES-E104", "weights['a']", "expected an integer"),
        ({"f": 1, "key": 32}, "QRES-E104", "key", "expected bytes, got an integer"),
        ({"f": 1, "inner": "deep"}, "QRES-E104", "inner", "expected a table, got a string"),
        ({"f": 1, "inner": {"depth": "3"}}, "QRES-E104", "inner.depth", "expected an integer"),
        ({"f": 1, "inner": {"deepth": 3}}, "QRES-E102", "inner.deepth", "did you mean 'depth'?"),
        ({"f": 1, "ratte": 1}, "QRES-E102", "ratte", "did you mean 'rate'?"),
        ({"f": 1, "seen": 1}, "QRES-E102", "seen", "unknown key"),
    ],
)
def test_wrong_options_are_refused_with_their_path(
    make_config: MakeConfig, table: Mapping[str, Any], code: str, where: str, words: str
) -> None:
    problem = refused(make_config, "toy", Installed.local("toy", Options), **table)
    assert problem.code == code
    assert problem.where == ("plugins.toy." + where).removesuffix(".")
    assert words in str(problem)


def test_a_suggestion_is_never_a_key_that_cannot_be_set(make_config: MakeConfig) -> None:
    problem = refused(make_config, "toy", Installed.local("toy", Options), f=1, seem=1)
    assert "seen" not in problem.fix


def test_all_wrong_options_are_reported_together(make_config: MakeConfig) -> None:
    table = {"rate": "x", "onn": True, "names": [1, 2], "inner": {"depth": ""}}
    problems = local_problems(make_config, Options, **table)
    assert sorted(code for code, _message in problems) == [
        "QRES-E102",
        "QRES-E103",
        "QRES-E104",
        "QRES-E104",
        "QRES-E104",
        "QRES-E104",
    ]


@attrs.frozen
class Grumpy:
    def __attrs_post_init__(self) -> None:
        raise PluginError.of("QRES-E105", "key_file", "is not there", "make one")

    @hookimpl
    def setup(self) -> None: ...


def test_a_named_error_of_a_plugin_keeps_its_code_and_gets_its_path(
    make_config: MakeConfig,
) -> None:
    problem = refused(make_config, "toy", Installed.local("toy", Grumpy))
    assert str(problem) == "QRES-E105 plugins.toy: is not there (make one)"


def test_plugins_keep_the_order_of_the_file(make_config: MakeConfig) -> None:
    names = ["zeta", "alpha", "mid"]
    found = {name: Installed.local(name, Honest) for name in sorted(names)}
    enabled = assemble(make_config({name: {} for name in names}), found)
    assert [plugin.name for plugin in enabled] == names
    assert [plugin.origin.name for plugin in enabled] == names
