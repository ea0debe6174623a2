"""Every hook is documented whole on its page, and the example there is a plugin."""

from __future__ import annotations

import ast
import hashlib
import hmac
import inspect
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import attrs
import numpy as np
import pluggy
import pytest

import qres_core
from qres_core import claims, dialogues, errors, training, transport
from qres_core.contract.abilities import ABILITIES, Abilities
from qres_core.contract.hookspecs import PROJECT, HookSpecs

Spec = Callable[..., object]
SPECS: dict[str, Spec] = {
    name: member for name, member in vars(HookSpecs).items() if inspect.isfunction(member)
}
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "hooks.md"
SECTIONS = ("When", "Slot", "Arguments", "Returns", "Raises")
FAMILIES = {
    "life cycle", "transport", "authenticate", "replay_check", "reputation", "privatize", "prove",
    "aggregate",
}  # fmt: skip
PLUGINS: dict[str, dict[str, Any]] = {
    "Median": {},
    "KeepHeavy": {},
    "NoWorse": {},
    "Mac": {"key_hex": "00"},
    "Increasing": {},
    "ThreeStrikes": {},
    "Clip": {"bound": 1},
    "Host": {},
}


def arguments(spec: Spec) -> list[str]:
    return list(inspect.signature(spec).parameters)[1:]


def document(spec: Spec) -> str:
    """What the page says of a hook."""
    text = PAGE.read_text(encoding="utf-8") + "\n## "
    (found,) = re.findall(rf"^### {spec.__name__}\n(.*?)^##", text, re.MULTILINE | re.DOTALL)
    return str(found)


def section(spec: Spec, name: str) -> str:
    body = document(spec).split(f"\n**{name}**:", 1)[1]
    return re.split(r"\n(?=\*\*|```)", body, maxsplit=1)[0]


def example(spec: Spec) -> str:
    (found,) = re.findall(r"^```python\n(.*?)\n```$", document(spec), re.MULTILINE | re.DOTALL)
    return str(found)


def example_class(spec: Spec) -> ast.ClassDef:
    (node,) = ast.parse(example(spec)).body
    assert isinstance(node, ast.ClassDef)
    return node


def manager() -> pluggy.PluginManager:
    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(HookSpecs)
    return plugins


each_spec = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)


def test_the_hooks_are_the_ones_of_the_design() -> None:
    assert list(SPECS) == [
        "setup", "teardown", "round_opened", "round_closed", "status", "transport", "sign",
        "authenticate", "identity", "key_index", "link_keys", "credential", "admit", "approve",
        "replay_check", "reputation", "observe", "privatize", "revealable", "reveal",
        "reveal_shard", "prove", "verify", "verify_shard", "verify_all", "aggregate",
        "wrap_aggregate", "screen", "endorse",
    ]  # fmt: skip
    assert PROJECT == "qres"


@each_spec
def test_a_specification_is_plain_and_asks_for_the_whole_list(spec: Spec) -> None:
    marks: object = getattr(spec, f"{PROJECT}_spec")
    assert marks == {
        "firstresult": False,
        "historic": False,
        "warn_on_impl": None,
        "warn_on_impl_args": None,
    }
    assert not inspect.iscoroutinefunction(spec)
    kinds = {parameter.kind for parameter in inspect.signature(spec).parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


@each_spec
def test_a_specification_is_one_line(spec: Spec) -> None:
    line = spec.__doc__ or ""
    assert line.endswith(".")
    assert "\n" not in line


@each_spec
def test_the_page_has_every_section_once_and_in_order(spec: Spec) -> None:
    found = re.findall(r"^\*\*(\w+)\*\*:", document(spec), flags=re.MULTILINE)
    assert found == list(SECTIONS)
    assert all(section(spec, name).strip() for name in SECTIONS)
    assert example(spec)


@each_spec
def test_every_argument_is_described_and_no_other(spec: Spec) -> None:
    body = section(spec, "Arguments")
    described = re.findall(r"^- `(\w+)`: \S", body, flags=re.MULTILINE)
    assert described == arguments(spec)
    if not described:
        assert body.strip() == "none."


@each_spec
def test_the_slot_names_a_family(spec: Spec) -> None:
    family = re.split(r"[,;]", section(spec, "Slot").strip())[0]
    assert family in FAMILIES


@each_spec
def test_the_example_defines_that_hook_and_asks_for_arguments_it_has(spec: Spec) -> None:
    node = example_class(spec)
    decorators = [ast.unparse(item) for item in node.decorator_list]
    assert decorators in (["attrs.frozen"], ["attrs.define"])
    (method,) = (item for item in node.body if isinstance(item, ast.FunctionDef))
    assert method.name == spec.__name__
    assert [ast.unparse(item) for item in method.decorator_list] == ["hookimpl"]
    assert method.args.args[0].arg == "self"
    assert {argument.arg for argument in method.args.args[1:]} <= set(arguments(spec))
    assert not method.args.kwonlyargs
    assert not method.args.vararg
    assert not method.args.kwarg


@each_spec
def test_the_example_is_accepted_as_a_plugin(spec: Spec) -> None:
    names: dict[str, Any] = {name: getattr(qres_core, name) for name in qres_core.__all__}
    for family in (claims, dialogues, errors, training, transport):
        names |= {name: getattr(family, name) for name in family.__all__}
    names |= {"attrs": attrs, "np": np, "hashlib": hashlib, "hmac": hmac, "Counter": Counter}
    exec(example(spec), names)  # noqa: S102 - text of this project
    plugin = names[example_class(spec).name]
    fields = cast("tuple[attrs.Attribute[Any], ...]", attrs.fields(plugin))
    options = {
        field.name: "00" if field.type is str else 1
        for field in fields
        if field.default is attrs.NOTHING
    }
    plugins = manager()
    assert plugins.register(plugin(**options), name="example")
    plugins.check_pending()
    (implementation,) = getattr(plugins.hook, spec.__name__).get_hookimpls()
    assert implementation.plugin_name == "example"


def test_plugins_written_elsewhere_implement_every_hook(third_party: ModuleType) -> None:
    plugins = manager()
    for name, options in PLUGINS.items():
        plugins.register(getattr(third_party, name)(**options), name=name)
    plugins.check_pending()
    missing = [hook for hook in SPECS if not getattr(plugins.hook, hook).get_hookimpls()]
    assert missing == []


def test_a_misspelt_hook_and_a_misspelt_argument_are_found() -> None:
    class Misspelt:
        @qres_core.hookimpl
        def agregate(self) -> None: ...

    class Greedy:
        claims = qres_core.Claims(tolerates=None)

        @qres_core.hookimpl
        def aggregate(self, updates: object, round_infos: object) -> None: ...

    plugins = manager()
    plugins.register(Misspelt())
    with pytest.raises(pluggy.PluginValidationError, match="agregate"):
        plugins.check_pending()
    with pytest.raises(pluggy.PluginValidationError, match="round_infos"):
        manager().register(Greedy())


def test_a_mac_guards_every_field_and_blames_the_link(third_party: ModuleType) -> None:
    mac = third_party.Mac("5a" * 32)
    envelope = qres_core.Envelope(
        "s", "choice/proposal", 1, b"\1" * 32, b"\2" * 32, 3, 4, b"payload"
    )
    signed = envelope.with_auth({"mac": mac.sign(envelope=envelope)})
    assert mac.authenticate(envelope=signed, source=b"\3" * 32).accepted
    changes: list[dict[str, Any]] = [
        {"round": 2},
        {"payload": b"other"},
        {"sender": b"\3" * 32},
        {"auth": {}},
    ]
    for change in changes:
        forged = attrs.evolve(signed, **change)
        verdict = mac.authenticate(envelope=forged, source=b"\3" * 32)
        assert (verdict.accepted, verdict.blame) == (False, qres_core.Blame.LINK)


# ── methods beside the hooks ──────────────────────────────────────────────────────────────────────


def test_the_page_lists_every_method_beside_the_hooks_with_its_arguments() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Methods beside the hooks\n")[1]
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \| .+ \|$", section, flags=re.MULTILINE)
    assert dict(rows) == {
        name: ", ".join(arguments(getattr(Abilities, name))) for name in ABILITIES
    }
    assert [name for name, _arguments in rows] == list(ABILITIES)


def test_no_method_beside_the_hooks_has_the_name_of_a_hook_or_a_claim() -> None:
    parts = (qres_core.Claims, claims.Privatizes, claims.Verifies, claims.Wraps)
    fields = {field.name for kind in parts for field in attrs.fields(kind)}
    assert fields.isdisjoint(ABILITIES)
    assert set(SPECS).isdisjoint(ABILITIES)
