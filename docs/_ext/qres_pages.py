"""The pages of the reference that are made from the code, and the pictures.

Every build of the manual writes the pages; git ignores them. The two pictures are kept in the
repository, because pages that are read there show them: a build renews them, and a test compares
them with the code. Needs no Sphinx.
"""

from __future__ import annotations

import ast
import copy
import importlib
import inspect
import json
import re
import textwrap
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import attrs
import click
from qres_compatibility import INTRO, compatibility_body, script
from qres_life_cycle import draw_life_cycle
from qres_rooms import draw_rooms

import qres_core
from qres_core.attacks import catalogue, sabotages
from qres_core.attacks.scenario import Scenario
from qres_core.cli.app import VERBS, app
from qres_core.cli.explain import log_ids
from qres_core.contract import options
from qres_core.contract.errors import ERROR_FAMILIES, ERRORS
from qres_core.contract.faults import Fault
from qres_core.contract.hookspecs import HookSpecs
from qres_core.contract.transport import LinkReason
from qres_core.kernel.config import NodeConfig, SwarmConfig
from qres_core.kernel.discovery import COMMANDS_GROUP, scan
from qres_core.kernel.index import plugin_index
from qres_core.kernel.policy import SYSTEM_POLICY, VARIABLE, PolicyFile
from qres_core.kernel.slots import SLOTS
from qres_core.training.table import TrainerConfig
from qres_core.training.tasks import TaskConfig

ROOT: Final = Path(__file__).resolve().parents[2]
NOTICE: Final = "<!-- Made from the code by docs/_ext/qres_pages.py. -->"
HOOKS: Final = "docs/reference/hooks.md"
WIDTH: Final = 88


def _markdown(text: str) -> str:
    """Docstring text as Markdown: roles and double backticks become code, powers stay powers."""
    text = re.sub(r":[a-z:]+:`~?(?:[\w.]+\.)?([\w]+)`", r"`\1`", text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("*", r"\*") for part in parts)


def _page(title: str, intro: str, body: Iterator[str]) -> str:
    parts = [f"# {title}", NOTICE, textwrap.dedent(intro).strip(), *body]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines
    )


# ── hooks ─────────────────────────────────────────────────────────────────────────────────────────


def hook_signature(hook: str) -> str:
    """``aggregate(updates: Updates, round_info: RoundInfo) -> Vector``."""
    signature = inspect.signature(getattr(HookSpecs, hook))
    arguments = list(signature.parameters.values())[1:]
    short = signature.replace(parameters=arguments)
    return f"{hook}{str(short).replace(chr(39), '')}"


def _head(hook: str) -> str:
    """What the code says of a hook: its signature and its one line."""
    line = _markdown(inspect.getdoc(getattr(HookSpecs, hook)) or "")
    return f"### {hook}\n\n```text\n{hook_signature(hook)}\n```\n\n{line}\n"


def _bounds(minimum: int, maximum: int | None) -> str:
    if maximum is None:
        return f"{minimum} or more"
    return f"exactly {minimum}" if minimum == maximum else f"{minimum} to {maximum}"


def _slots() -> str:
    return _table(
        ("family", "hooks", "counted", "how many", "combination"),
        (
            (
                f"[{family}](#family-{family})",
                ", ".join(f"[`{hook}`](#{hook})" for hook in slot.hooks),
                ", ".join(f"`{hook}`" for hook in slot.counted),
                _bounds(slot.minimum, slot.maximum),
                slot.combination,
            )
            for family, slot in SLOTS.items()
        ),
    )


def hooks_page(written: str | None = None) -> str:
    """``reference/hooks.md`` as a reader of the manual has it.

    The page in the repository is written by hand. The table of slots and the head of each hook are
    put in here.
    """
    text = (ROOT / HOOKS).read_text(encoding="utf-8") if written is None else written
    text = text.replace("## Slots\n", f"## Slots\n\n{_slots()}\n", 1)
    return re.sub(r"^### (\w+)\n", lambda found: _head(found[1]), text, flags=re.MULTILINE)


# ── errors ────────────────────────────────────────────────────────────────────────────────────────


def errors_page() -> str:
    """``reference/errors.md``."""

    def body() -> Iterator[str]:
        family = ""
        for code, (title, meaning) in ERRORS.items():
            if not family or not code.startswith(family):
                family = next(
                    error_family for error_family in ERROR_FAMILIES if code.startswith(error_family)
                )
                yield f"## {ERROR_FAMILIES[family]}"
            yield f"### {code}"
            yield f"**{title[0].upper()}{title[1:]}.** {_markdown(meaning)}"

    intro = """
        Every refusal has an id, the place, the problem and the remedy. The ids are stable: an id
        never gets another meaning. QRES reports all problems of a configuration at once. After a
        refusal, `qres` ends with exit code 2. `qres explain QRES-E304` prints the entry of an id.

        [Debug a load error](../how-to/debug-a-load-error.md) explains problems with plugins
        (QRES-E2xx) in detail.
    """
    return _page("Errors", intro, body())


def faults_page() -> str:
    """``reference/fault-ids.md``."""

    def body() -> Iterator[str]:
        faults = (
            f"| `{fault.value}` | {_markdown(fault.text)} | {'yes' if fault.own_view else ''} |"
            for fault in Fault
        )
        yield "## What is held against a message or a node"
        head = "| id | what it says | an honest node may see it otherwise |", "| --- | --- | --- |"
        yield "\n".join((*head, *faults))
        links = (
            f"| `{reason.value}` | {_markdown(log_ids()[reason.value])} |" for reason in LinkReason
        )
        yield "## Why a link to a neighbour ended, or did not come to be"
        yield "\n".join(("| id | what it says |", "| --- | --- |", *links))

    intro = """
        Logs, metrics and the status name reasons by these ids. They are stable: an id never gets
        another meaning. `qres explain unproven-link` prints the entry of an id.

        An id with a colon belongs to a plugin: `replay:sequence-too-old` is an id of the plugin
        `replay`. The plugin's README says what its ids mean.
    """
    return _page("Ids in logs", intro, body())


# ── configuration ─────────────────────────────────────────────────────────────────────────────────


def first_party_plugins() -> dict[str, tuple[str, type]]:
    """Installed plugins of this repository by name: distribution and class."""
    projects = [ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")]
    own = {tomllib.loads(path.read_text(encoding="utf-8"))["project"]["name"] for path in projects}
    return {
        name: (found.distribution, found.entry_point.load())
        for name, found in scan().items()
        if found.distribution in own and found.entry_point is not None
    }


def config_tables() -> dict[str, tuple[str, type]]:
    """Key path of every table: an introduction and the class it is read into."""
    tables: dict[str, tuple[str, type]] = {
        "swarm": (
            (
                "Settings of the swarm. Of these, `deadline`, `vote_timeout`, `deadline_stretch`, "
                "`interval`, `memory` and `rounds` are each node's own, and the members, "
                "`byzantine` and `quorum` are in the swarm's roster. All others are "
                "[shared settings](../how-to/run-a-node.md#shared-settings)."
            ),
            SwarmConfig,
        ),
        "node": ("Settings of this node alone.", NodeConfig),
        "trainer": (
            "The training: your own model, or a built-in task. The default is the digits.",
            TrainerConfig,
        ),
        "trainer.task": ("A built-in task.", TaskConfig),
        "simulation": (
            "The scenario that `qres simulate` plays. `qres check` accepts it too.",
            Scenario,
        ),
    }
    for name, (distribution, kind) in first_party_plugins().items():
        tables[f"plugins.{name}"] = f"The plugin of the distribution `{distribution}`.", kind
    return tables


_TOML_TYPES: Final[Mapping[Any, str]] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
}


def _toml_type(kind: Any) -> str:
    if kind in _TOML_TYPES:
        return _TOML_TYPES[kind]
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        (some,) = (part for part in inner if part is not type(None))
        return _toml_type(some)
    if origin in (tuple, list):
        return f"array of {_toml_type(inner[0])}s"
    if attrs.has(kind) or origin is Mapping:
        return "table"
    msg = f"no TOML name for {kind!r}"
    raise ValueError(msg)


def _default(field: attrs.Attribute[Any]) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    if isinstance(field.default, attrs.Factory):  # type: ignore[arg-type]
        return "its defaults"
    if field.default is None:
        return "none"
    # For the values that a default can have, JSON is TOML.
    return f"`{json.dumps(field.default)}`"


def _meaning(field: attrs.Attribute[Any]) -> str:
    """What an option means, and whether nodes may differ in it."""
    marks = {
        options.LOCAL: " Local: may differ between nodes.",
        options.PRESENCE: " Local, but all nodes must set it, or none.",
        options.CONTENT: " Local, but the file must be the same on all nodes.",
    }
    mark = marks.get(field.metadata.get(options.SHARING, ""), "")
    if options.READS in field.metadata:
        mark = " Local, but what the file stands for must be the same on all nodes."
    return str(field.metadata["help"]) + mark


def configuration_page() -> str:
    """``reference/configuration.md``."""

    def body() -> Iterator[str]:
        for path, (intro, kind) in config_tables().items():
            yield f"## `[{path}]`"
            yield intro
            hints = typing.get_type_hints(kind)
            yield _table(
                ("key", "type", "default", "meaning"),
                (
                    (
                        f"`{path}.{field.name}`",
                        _toml_type(hints[field.name]),
                        _default(field),
                        _markdown(_meaning(field)),
                    )
                    for field in attrs.fields(kind)
                    if field.init
                ),
            )

    intro = """
        The configuration is one TOML file of at most 1 MiB. QRES refuses unknown keys and tables
        with a suggestion, and converts no value: `"2"` is not `2`, and `2.7` is not an integer. A
        number may be written as an integer.

        Only a table `[plugins.NAME]` enables the plugin of that name. The order of these tables is
        the order in which plugins run.

        The options of plugins must be the same on all nodes, except those marked as local and
        those of transports.
    """
    return _page("Configuration", intro, body())


# ── site policy ───────────────────────────────────────────────────────────────────────────────────


def policy_page() -> str:
    """``reference/site-policy.md``."""

    def body() -> Iterator[str]:
        hints = typing.get_type_hints(PolicyFile)
        yield _table(
            ("key", "type", "meaning"),
            (
                (f"`{field.name}`", _toml_type(hints[field.name]), field.metadata["help"])
                for field in attrs.fields(PolicyFile)
            ),
        )
        yield f"Families of hooks: {', '.join(f'`{family}`' for family in SLOTS)}."

    intro = f"""
        A site policy states an operator's demands on every configuration of a machine. QRES reads
        policies from `{SYSTEM_POLICY}`, from the files that `{VARIABLE}` names and from `--policy`,
        and applies all of them. It refuses a configuration that does not meet a policy with
        [QRES-E315](errors.md#qres-e315). [Set a site policy](../how-to/set-a-site-policy.md) shows
        the use.

        A policy is one TOML file of at most 1 MiB. QRES reads it as strictly as
        [the configuration](configuration.md). Every key is optional, but at least one is needed.
    """
    return _page("Site policy", intro, body())


# ── command line ──────────────────────────────────────────────────────────────────────────────────


LABORATORY: Final = "qres-lab"


def _help(command: click.Command, name: str, parent: click.Context | None) -> str:
    # click keeps the help option of the first context: one of a test may have been without `-h`.
    command = copy.copy(command)
    command._help_option = None  # noqa: SLF001 - there is no public way to make it forget
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )
    return command.get_help(context)


def cli_page() -> str:
    """``reference/cli.md``."""

    def body() -> Iterator[str]:
        yield f"```text\n{_help(app, 'qres', None)}\n```"
        parent = click.Context(app, info_name="qres", **app.context_settings)
        brought = plugin_index().brought[COMMANDS_GROUP]
        lab = (verb for verb, distribution in brought.items() if distribution == LABORATORY)
        for verb in (*VERBS, *lab):
            command = app.get_command(parent, verb)
            if command is None:
                msg = f"no command {verb!r}"
                raise ValueError(msg)
            yield f"## qres {verb}"
            if verb not in VERBS:
                yield f"Of `{LABORATORY}`: without it, the command says how to install it."
            yield f"```text\n{_help(command, verb, parent)}\n```"
            if isinstance(command, click.Group):
                context = click.Context(command, info_name=verb, parent=parent)
                for name, inner in command.commands.items():
                    yield f"### qres {verb} {name}"
                    yield f"```text\n{_help(inner, name, context)}\n```"

    intro = """
        Exit code 0 means success. Exit code 2 means that QRES refused something (each refusal has
        [an id](errors.md)) or that the usage was wrong. If 1 has a meaning, the command says so.
        [Privacy plan](privacy-plan.md) tells the keys of `qres dp plan --json`.
    """
    return _page("Command line", intro, body())


# ── attacks ───────────────────────────────────────────────────────────────────────────────────────


def attacks_page() -> str:
    """``reference/attacks.md``."""

    def body() -> Iterator[str]:
        yield "## Lies in what is contributed"
        yield _table(
            ("attack", "what it sends", "what the attacker must know", "strength"),
            (
                (f"`{attack.name}`", attack.summary, attack.knowledge, attack.strength)
                for attack in catalogue().values()
            ),
        )
        yield (
            "All attackers of a run make one attack and collude: they plan the lie together, and "
            "each of them sends it. The lie is encoded on the grid and saturates at its limit. "
            "Formulas and papers are in the docstrings. The first seven are of the core "
            "(`qres_core.attacks`); `qres-lab` brings all others of this page (`qres_lab.attacks`)."
        )
        yield (
            "An attacker may know nothing, its own data, all honest updates of the round, or these "
            "and the whole aggregation. In the last case it tries the aggregation on copies of an "
            "honest node's plugins, with wrappers, history, held-out examples and the votes of all "
            "honest nodes, and finds what does the most harm."
        )
        yield (
            "`label_flip` and the backdoors change the data that attackers train on, so they need "
            "a task with labelled examples. Under a backdoor, every round has the metric "
            "`backdoor`: the share of test examples of other classes that the model puts into "
            "class 0 when they have the trigger."
        )
        yield "## Attacks on the protocol"
        yield (
            "These attackers inject messages beside their contribution, or keep messages back. The "
            "report counts how many of them honest nodes admitted, and why the others were "
            'refused. The engine must be `"events"`. `simulation.sabotage` names one of them that '
            "stands beside a lie."
        )
        yield _table(
            ("attack", "what it does"),
            ((f"`{item.name}`", item.summary) for item in sabotages().values()),
        )

    intro = """
        Attackers of a simulation make one of these attacks. Select it with `simulation.attack` in
        the file, or with `qres simulate --attack NAME`. Attackers run the same rounds as all other
        nodes. `simulation.strength` replaces the default strength of an attack that has a strength.
        [Add an attack](../how-to/add-an-attack.md) shows how to write your own.
    """
    return _page("Attacks", intro, body())


# ── public names ──────────────────────────────────────────────────────────────────────────────────

API_GROUPS: Final = {
    "types": "Vectors, updates, nodes",
    "rounds": "Rounds",
    "evidence": "Evidence and standing",
    "faults": "Faults",
    "companion": "Companions",
    "verdict": "Verdicts",
    "wire": "Envelope",
    "hookspecs": "Hooks",
    "claims": "Claims",
}
"""The modules of what is at the top of ``qres_core``, in the order of the page."""
MODULES: Final = ("fixed", "canonical", "options", "packing", "stores")
FAMILIES: Final = ("claims", "dialogues", "errors", "training", "transport")
PACKAGES: Final = ("qres_core.commands", "qres_core.reporting", "qres_hosting")


def _home(name: str) -> str:
    """The module of the contract that defines a name of the top."""
    homes = cast("dict[str, tuple[str, ...]]", vars(qres_core)["_HOME"])
    return next((module for module, names in homes.items() if name in names), name)


def _homes(family: types.ModuleType) -> dict[str, str]:
    """By name of a family, the module that defines it; modules that are names are left out."""
    tree = ast.parse(inspect.getsource(family))
    return {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("qres_core.contract.")
        for alias in node.names
        if alias.name in family.__all__
    }


def _constants(loaded: types.ModuleType) -> dict[str, str]:
    """What a module says of its constants: the string that follows each."""
    tree = ast.parse(inspect.getsource(loaded))
    found: dict[str, str] = {}
    for node, after in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign | ast.Assign):
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name):
                text = after.value if isinstance(after, ast.Expr) else None
                said = text.value if isinstance(text, ast.Constant) else ""
                found[target.id] = str(said)
    return found


def _entry(name: str, module: str, public: types.ModuleType = qres_core) -> str:
    """The entry of a name that ``module`` defines and ``public`` shows."""
    value = getattr(public, name)
    if inspect.isfunction(value):
        return f".. autofunction:: {name}"
    constants = _constants(importlib.import_module(module))
    if name in constants:
        return f".. py:data:: {name}\n\n   {constants[name]}"
    options = ["members"]
    if issubclass(value, Exception):
        options = ["show-inheritance"]
    elif not attrs.has(value):
        options.append("undoc-members")
    return "\n   ".join([f".. autoclass:: {name}", *(f":{option}:" for option in options)])


def _lives_elsewhere(value: object, module: types.ModuleType) -> bool:
    return getattr(value, "__module__", module.__name__) != module.__name__


def _module_entry(module: str) -> str:
    loaded = importlib.import_module(module)
    public = {name: text for name, text in _constants(loaded).items() if name[0] != "_"}
    hidden = f"\n   :exclude-members: {', '.join(public)}" if public else ""
    # Names that live in modules of a package: autodoc takes none of them for its own.
    names = loaded.__all__ if hasattr(loaded, "__path__") else ()
    elsewhere = [name for name in names if _lives_elsewhere(getattr(loaded, name), loaded)]
    members = "" if elsewhere else f"\n   :members:{hidden}"
    lines = [
        f".. automodule:: {loaded.__name__}{members}",
        f".. currentmodule:: {loaded.__name__}",
    ]
    for name in elsewhere:
        value = getattr(loaded, name)
        kind = "autofunction" if inspect.isfunction(value) else "autoclass"
        shown = "" if inspect.isfunction(value) else "\n   :members:"
        lines.append(f".. {kind}:: {name}{shown}")
    for name, text in public.items():
        lines.append(f".. py:data:: {name}\n   :value: {getattr(loaded, name)}\n\n   {text}")
    return "\n\n".join(lines)


def api_page() -> str:
    """``reference/api.md``."""

    def body() -> Iterator[str]:
        for module, title in API_GROUPS.items():
            yield f"## {title}"
            names = [name for name in qres_core.__all__ if _home(name) == module]
            entries = [_entry(name, f"qres_core.contract.{module}") for name in names]
            lines = "\n\n".join([".. currentmodule:: qres_core", *entries])
            yield f"```{{eval-rst}}\n{lines}\n```"
        for module in MODULES:
            yield f"## qres_core.{module}"
            yield f"```{{eval-rst}}\n{_module_entry(f'qres_core.contract.{module}')}\n```"
        for name in FAMILIES:
            family = importlib.import_module(f"qres_core.{name}")
            homes = _homes(family)
            yield f"## qres_core.{name}"
            yield str(family.__doc__).strip().split("\n\n")[0]
            entries = [
                _entry(each, homes[each], family) for each in family.__all__ if each in homes
            ]
            lines = "\n\n".join([f".. currentmodule:: qres_core.{name}", *entries])
            yield f"```{{eval-rst}}\n{lines}\n```"
            if name == "training":
                yield "## qres_core.training.partition"
                yield f"```{{eval-rst}}\n{_module_entry('qres_core.contract.partition')}\n```"
        for module in PACKAGES:
            yield f"## {module}"
            yield f"```{{eval-rst}}\n{_module_entry(module)}\n```"

    intro = """
        A plugin may import these names of `qres_core`, and no others. An integration may also
        import those of `qres_hosting`. A name is loaded on first use. The first are at the top:
        `from qres_core import …`. The others are in modules by family, `from qres_core.errors
        import …`. A name has one place.
    """
    return _page("Python names", intro, body())


def compatibility_page() -> str:
    """``reference/compatibility.md``."""
    return _page("Compatibility", INTRO, compatibility_body())


def claims_page() -> str:
    """``reference/claims.md``."""
    claims = script("claims")
    return str(claims.Book.read(ROOT).written())


def figures_page() -> str:
    """``reference/figures.md``."""
    figures = script("figures")
    return str(figures.written(ROOT, figures.read(ROOT)))


PAGES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/reference/errors.md": errors_page,
    "docs/reference/fault-ids.md": faults_page,
    "docs/reference/configuration.md": configuration_page,
    "docs/reference/site-policy.md": policy_page,
    "docs/reference/compatibility.md": compatibility_page,
    "docs/reference/cli.md": cli_page,
    "docs/reference/attacks.md": attacks_page,
    "docs/reference/api.md": api_page,
    "docs/reference/claims.md": claims_page,
    "docs/reference/figures.md": figures_page,
}
"""Every page that a build writes, by its path from the root. Git ignores them."""

PICTURES: Final[Mapping[str, Callable[[], str]]] = {
    "docs/explanation/life-cycle.svg": draw_life_cycle,
    "docs/explanation/rooms.svg": draw_rooms,
}
"""Every drawn picture by its path from the root. They are in the repository."""


def write_pages() -> list[Path]:
    """Write what is not as the code says; returns what was written."""
    written: list[Path] = []
    for name, make in {**PAGES, **PICTURES}.items():
        path, text = ROOT / name, make()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8", newline="\n")
            written.append(path)
    return written
