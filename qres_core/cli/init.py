"""``qres init``: a commented configuration for the plugins installed, or one of the profiles."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, cast, get_type_hints

import attrs
import click
import tomli

from qres_core.attacks.scenario import Scenario
from qres_core.contract.errors import LabError, QresError
from qres_core.kernel.assembly import plugin_class
from qres_core.kernel.config import NodeConfig, SwarmConfig, structure
from qres_core.kernel.discovery import Installed, Status, scan
from qres_core.kernel.index import FROM_CHECKOUT, plugin_index
from qres_core.kernel.inspection import hooks_of
from qres_core.kernel.slots import FAMILY_OF, SECURITY_FAMILIES, SLOTS
from qres_core.training.table import TrainerConfig
from qres_core.training.tasks import TaskConfig

PROFILES: Final = ("minimal", "production", "high-security")
"""Configurations that come with the package, every line explained; ``profiles/NAME.toml``."""
_CORE: Final = "qres-core"
_BY_PROFILE: Final = frozenset({"privatize", "prove"})
"""Families whose plugins rest on each other's order and numbers: a profile has them, no guess."""
_SWARM: Final = {"name": "my-swarm", "nodes": 10, "byzantine": 1, "quorum": 8, "insecure": True}


@click.command("init")
@click.argument("path", default="qres.toml", type=click.Path(path_type=Path))
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    help="Write this composition instead. minimal: signatures and a robust rule. production: "
    "members, bans and validation too. high-security: also hidden updates, noise and proofs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as JSON.")
def command(path: Path, *, profile: str | None, as_json: bool) -> None:
    """Write a configuration to PATH with every key explained, for the plugins installed.

    One installed plugin for each place is enabled, and the wrapper that belongs to the rule; the
    rest, judges among them, stand in comments, and so do plugins that hide or prove updates. With
    --profile the plugins are those of the profile, and what is not installed is named. Either
    starts as it is, in the simulator. An existing file is left alone (exit 2).
    """
    installed = scan()
    if profile is None:
        enabled, others = choose(installed)
        names, text = [plugin.name for plugin in enabled], render(enabled, others)
    else:
        text = profile_text(profile)
        names = list(tomli.loads(text)["plugins"])
    _write(path, text)
    missing = lacking(names, installed)
    if as_json:
        report = {"path": str(path), "enabled": names, "to_install": missing}
        click.echo(json.dumps(report, indent=2))
        return
    steps = [f"qres check {path}", f"qres simulate {path}"]
    if missing:
        steps.insert(0, f"{FROM_CHECKOUT}  # brings {', '.join(missing)}")
    click.echo("\n    ".join([f"wrote {path}; next:", *steps]))


def _write(path: Path, text: str) -> None:
    """Write a file that is not there yet.

    Raises LabError: QRES-E803 if it is. Raises click.UsageError: it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        what = "there is a file already, and it is left as it is"
        fix = "name another one: qres init OTHER.toml"
        raise LabError.of("QRES-E803", str(path), what, fix) from error
    except OSError as error:
        msg = f"cannot write {path}: {error.strerror or error}"
        raise click.UsageError(msg) from error


def profile_text(name: str) -> str:
    """The configuration of a profile."""
    return (files("qres_core.cli") / "profiles" / f"{name}.toml").read_text(encoding="utf-8")


def lacking(names: Iterable[str], installed: Mapping[str, Installed]) -> list[str]:
    """Distributions of this project that bring the plugins which are not installed."""
    distributions = plugin_index().distributions
    return sorted({distributions[name] for name in names if name not in installed})


def choose(installed: Mapping[str, Installed]) -> tuple[list[Installed], list[Installed]]:
    """The plugins to enable and the others; a slot's place goes to those that are not built in.

    A plugin is imported only if there is a place for it, and enabled only if it can be configured
    without knowing anything; one that needs a file or a list stands in comments.
    """
    enabled: list[Installed] = []
    others: list[Installed] = []
    filled: dict[str, int] = {}
    for plugin in sorted(installed.values(), key=_rank):
        hooks = hooks_of(plugin.target) if plugin.status is Status.INSTALLED else None
        places = [hook for hook in hooks or () if _limited(hook)]
        families = {
            FAMILY_OF[hook]
            for hook in hooks or ()
            if hook in FAMILY_OF and hook in SLOTS[FAMILY_OF[hook]].counted
        }
        wanted = families and not families & _BY_PROFILE
        wanted = wanted or plugin.name == plugin_index().examples["first_wrapper"]
        if not hooks or not wanted or any(filled.get(hook) for hook in places):
            others.append(plugin)
            continue
        if not _starts(plugin):
            others.append(plugin)
            continue
        enabled.append(plugin)
        for hook in hooks:
            filled[hook] = filled.get(hook, 0) + 1
    return sorted(enabled, key=_stands), others


def _rank(plugin: Installed) -> tuple[bool, bool]:
    """The rule that a beginner gets is chosen first, and what is built in last."""
    return plugin.distribution == _CORE, not _stands(plugin)


def _stands(plugin: Installed) -> int:
    """Place of a plugin in the file: others look at updates before a wrapper mixes them."""
    first = [plugin_index().examples[role] for role in ("first_wrapper", "first_rule")]
    return 1 + first.index(plugin.name) if plugin.name in first else 0


def _starts(plugin: Installed) -> bool:
    """True if the plugin can be configured without knowing anything: its samples are accepted."""
    try:
        kind = plugin_class(plugin)
        hints = get_type_hints(kind)
        raw = {
            field.name: tomli.loads(f"value = {_sample(hints.get(field.name))}")["value"]
            for field in attrs.fields(cast("Any", kind))
            if field.init and field.default is attrs.NOTHING
        }
        structure(raw, kind, f"plugins.{plugin.name}")
    except QresError:
        return False
    return True


def _limited(hook: str) -> bool:
    slot = SLOTS.get(FAMILY_OF.get(hook, ""))
    return slot is not None and hook in slot.counted and slot.maximum == 1


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON writes text, numbers and arrays as TOML does.
    return json.dumps(value, ensure_ascii=False)


def _keys(kind: type, given: Mapping[str, object], leave: Container[str] = ()) -> Iterator[str]:
    """Each key of a table with its meaning: set where given or required, else commented out."""
    hints = get_type_hints(kind)
    for field in attrs.fields(kind):
        if not field.init or attrs.has(hints.get(field.name, object)) or field.name in leave:
            continue
        help_text = field.metadata.get("help", "")
        if help_text:
            yield f"# {help_text}"
        default: Any = field.default
        if field.name in given:
            yield f"{field.name} = {_value(given[field.name])}"
        elif default is attrs.NOTHING:
            yield f"{field.name} = {_sample(hints.get(field.name))}  # required: check this value"
        elif default is None or isinstance(default, attrs.Factory):  # type: ignore[arg-type]
            yield f"# {field.name} ="
        else:
            yield f"# {field.name} = {_value(default)}"


def _sample(hint: object) -> str:
    return {int: "1", float: "1.0", bool: "false"}.get(hint, '""')  # type: ignore[call-overload, no-any-return]


def render(enabled: list[Installed], others: list[Installed]) -> str:
    """The text of the file."""
    filled = {FAMILY_OF.get(hook) for plugin in enabled for hook in hooks_of(plugin.target) or ()}
    given: dict[str, object] = dict(_SWARM)
    network, memory = map(plugin_index().example, ("network", "transport"))
    if set(SECURITY_FAMILIES) <= filled:
        del given["insecure"]
    lines = [
        "# A QRES configuration. A table [plugins.NAME] enables the plugin NAME; the order of the",
        "# tables is the order in which plugins run. Commented keys show their defaults.",
        "",
        "[swarm]",
        *_keys(SwarmConfig, given),
        "",
        "[node]",
        *_keys(NodeConfig, {}),
    ]
    for plugin in enabled:
        hooks = ", ".join(hooks_of(plugin.target) or ())
        lines += ["", f"# {plugin.distribution} {plugin.version}: {hooks}"]
        lines += [f"[plugins.{plugin.name}]", *_keys(plugin_class(plugin), {})]
    for plugin in others:
        hooks = ", ".join(hooks_of(plugin.target) or ()) or plugin.detail or "hooks not known"
        lines += ["", f"# {plugin.distribution} {plugin.version}: {hooks}"]
        lines += [f"# [plugins.{plugin.name}]"]
    lines += [
        "",
        "# The training of a simulation and of real nodes: the task of [trainer.task], or your own",
        "# model. For your own model, set `entry` and delete the table [trainer.task].",
        "[trainer]",
        *_keys(TrainerConfig, {}, leave=("task",)),
        "",
        "[trainer.task]",
        *_keys(TaskConfig, {}),
        "",
        "# The scenario of `qres simulate`. A real node needs node.data_dir, swarm.roster, a key,",
        f"# and {network} in the place of {memory}; `qres swarm up` sees to that.",
        "[simulation]",
        *_keys(Scenario, {"rounds": 10, "seed": 0}),
    ]
    return "\n".join(lines) + "\n"
