"""``qres new-plugin``: a complete distribution to start a plugin from, made offline.

The files come from ``plugin_templates`` beside this module. What is generated works as it is: an
implementation of the hook, its tests and its packaging.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import resources
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import Final

import attrs
import click

from qres_core.contract.errors import LabError
from qres_core.contract.moved import HOMES
from qres_core.contract.version import __version__

_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_MAX_NAME: Final = 40
# Not imported: the facade names a module that imports this room, and would be imported in a circle.
_PUBLIC: Final[list[str]] = sys.modules["qres_core"].__all__
_CLASS_NAMES_IN_USE: Final = frozenset(
    {*_PUBLIC, *HOMES, "Any", "Callable", "Counter", "False", "Final", "NDArray", "None", "Path"}
    | {"TestContract", "TextIO", "True"}
    | {"Privatizes", "Verifies", "Wraps"}
)


@attrs.frozen
class Scaffold:
    """Files that are generated for a hook, or in place of a plugin."""

    hooks: tuple[str, ...]  # the hooks the generated plugin has; none for an attack or a trainer
    summary: str  # one line, for the description and the docstring
    options: str  # the options of its TOML table, as TOML
    numpy: bool = False  # whether it imports numpy
    group: str = "qres.plugins"  # entry-point group in which the class is named; empty for none
    # the table of the configuration that uses it; for ``str.format`` with its name
    table: str = "[plugins.{plugin}]"
    what: str = "A plugin of QRES. Hooks: {hooks}."  # what it is, as the README says it
    # how it is tried out, as the README says it
    use: str = "`qres check swarm.toml` shows the pipeline with the plugin in it."

    def toml(self, plugin: str, module: str) -> str:
        """Lines of a configuration that uses it."""
        said = f"{self.table}\n{self.options}"
        return said.replace("{plugin}", plugin).replace("{module}", module)


SCAFFOLDS: Final = MappingProxyType(
    {
        "aggregate": Scaffold(
            ("aggregate",),
            "The coordinate-wise median as an aggregation rule for QRES",
            "f = 1  # liars to withstand; a round needs 2 f + 1 updates",
            numpy=True,
        ),
        "wrap_aggregate": Scaffold(
            ("wrap_aggregate",),
            "Norm clipping around the aggregation rule of QRES",
            "bound = 65536  # greatest length of an update, in grid steps",
            numpy=True,
        ),
        "endorse": Scaffold(
            ("setup", "screen", "endorse"),
            "Votes on proposed updates by a node's own held-out examples, for QRES",
            "tolerance = 0.1  # how much a merged update may raise the loss, as a share of it",
        ),
        "privatize": Scaffold(
            ("privatize",),
            "Coarse updates for QRES",
            "bits = 8  # low bits of every coordinate that do not leave the node",
            numpy=True,
        ),
        "reveal": Scaffold(
            ("setup", "privatize", "reveal"),
            "Vectors masked on the wire with a shared key, for QRES",
            'key_hex = "…"  # at least 64 hex digits, the same on every node; keep it secret',
            numpy=True,
        ),
        "authenticate": Scaffold(
            ("sign", "authenticate"),
            "HMAC authentication with a shared key for QRES",
            'key_hex = "…"  # at least 64 hex digits, the same on every node; keep it secret',
        ),
        "admit": Scaffold(
            ("admit",),
            "A list of the nodes that may connect, for QRES",
            "members = []  # identities that may connect, 64 hex digits each",
        ),
        "replay_check": Scaffold(
            ("replay_check",),
            "Replay protection by sequence number and time for QRES",
            "window = 60.0  # greatest difference of clocks, in seconds",
        ),
        "reputation": Scaffold(
            ("reputation", "observe"),
            "Standing by counted offences for QRES",
            "limit = 3  # offences that ban a node",
        ),
        "verify": Scaffold(
            ("setup", "prove", "verify"),
            "Proof of work with every contribution for QRES",
            "bits = 16  # a contribution costs 2**16 hashes on average",
        ),
        "round_closed": Scaffold(
            ("setup", "round_opened", "round_closed", "status", "teardown"),
            "A journal of the rounds of a QRES node",
            'file_name = "rounds.jsonl"  # in the node\'s data folder',
        ),
    }
)
"""Scaffolds by the hook they are named after; the name is also that of their templates."""

OTHERS: Final = MappingProxyType(
    {
        "attack": Scaffold(
            (),
            "An attack to try swarms of QRES with",
            'attack = "{plugin}"\nattackers = 2',
            numpy=True,
            group="qres.attacks",
            table="[simulation]",
            what="An attack of QRES, played in simulations and in the certification of rules.",
            use="`qres attack list` names it, and `qres simulate swarm.toml` plays it.",
        ),
        "trainer": Scaffold(
            (),
            "A model and its data for a swarm of QRES",
            'entry = "{module}:make"',
            numpy=True,
            group="",
            table="[trainer]",
            what="A trainer of QRES: the model that a swarm trains, and each node's data.",
            use="`qres simulate swarm.toml` trains it on a virtual clock, `qres swarm up` in real "
            "processes.",
        ),
    }
)
"""What is no plugin and is made all the same: by the word that ``--hook`` takes for it."""

HOOKS: Final = MappingProxyType(
    {name: name for name in SCAFFOLDS}
    | {"screen": "endorse", "sign": "authenticate", "observe": "reputation", "prove": "verify"}
    | {"setup": "round_closed", "round_opened": "round_closed", "teardown": "round_closed"}
    | {"status": "round_closed"}
)
"""The scaffold of every hook. ``transport`` has none: half a transport is no use to anybody.
``identity``, ``key_index``, ``link_keys`` and ``credential`` have none: they belong to the plugin
that holds the keys. ``approve`` has none: it belongs to the one that knows the authority. Nor have
``verify_shard`` and ``verify_all``, which are ``verify`` in parts and made faster, ``revealable``,
which guards what ``reveal`` shows of several sets, and ``reveal_shard``, which shows a part of
it."""


def render(name: str, hook: str) -> dict[str, str]:
    """The files of a new plugin: contents by path relative to the distribution's folder.

    ``name``: valid; its words may be joined by ``-`` or ``_``; ``hook``: a key of :data:`HOOKS` or
    :data:`OTHERS`.
    """
    template = HOOKS.get(hook, hook)
    scaffold = scaffold_of(hook)
    plugin = name.replace("-", "_")
    module = f"qres_{plugin}"
    class_name = "".join(part.capitalize() for part in plugin.split("_"))
    if class_name in _CLASS_NAMES_IN_USE:
        class_name += "Plugin"
    core = core_requirement(__version__)
    dependencies = ["attrs>=24.2", *(["numpy>=1.26"] if scaffold.numpy else []), f"qres-core{core}"]
    values = {
        "plugin": plugin,
        "dist": f"qres-{plugin.replace('_', '-')}",
        "module": module,
        "class_name": class_name,
        "summary": scaffold.summary,
        "options": scaffold.toml(plugin, module),
        "what": scaffold.what.format(hooks=", ".join(f"`{hook}`" for hook in scaffold.hooks)),
        "use": scaffold.use,
        "extra_files": ', "swarm.toml"' if hook == "trainer" else "",
        "entry_points": f'[project.entry-points."{scaffold.group}"]\n'
        f'{plugin} = "{module}:{class_name}"\n\n'
        if scaffold.group
        else "",
        "dependencies": ", ".join(f'"{dependency}"' for dependency in dependencies),
        "core": core,
    }
    sources = {
        "CHANGELOG.md": "CHANGELOG.md",
        "LICENSE": "LICENSE",
        "README.md": "README.md",
        "pyproject.toml": "pyproject.toml",
        f"{module}/__init__.py": f"{template}.py",
        f"tests/test_{module}.py": f"{template}_test.py",
    }
    if hook == "trainer":
        sources["swarm.toml"] = "swarm.toml"
    folder = resources.files("qres_lab.commands") / "plugin_templates"
    files = {
        path: Template((folder / f"{source}.tmpl").read_text(encoding="utf-8")).substitute(values)
        for path, source in sources.items()
    }
    return dict(sorted({**files, f"{module}/py.typed": ""}.items()))


def scaffold_of(hook: str) -> Scaffold:
    """Scaffold for a word that ``--hook`` takes."""
    return OTHERS[hook] if hook in OTHERS else SCAFFOLDS[HOOKS[hook]]


def core_requirement(version: str) -> str:
    """The versions of qres-core that a plugin made today may count on.

    Example:
        >>> core_requirement("0.1.3"), core_requirement("2.4.0")
        ('>=0.1,<0.2', '>=2.4,<3')
    """
    major, minor = (int(part) for part in version.split(".")[:2])
    return f">={major}.{minor},<" + (f"{major + 1}" if major else f"0.{minor + 1}")


def _check_name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if len(value) > _MAX_NAME or not _NAME.fullmatch(value):
        msg = f"{value!r} is not lower-case words of a-z and 0-9 joined by '-' or '_' (at most 40)"
        raise click.BadParameter(msg)
    from qres_core.kernel.index import plugin_index  # noqa: PLC0415

    plugin, dist = value.replace("-", "_"), f"qres-{value.replace('_', '-')}"
    distributions = plugin_index().distributions
    if plugin in distributions or dist in distributions.values():
        msg = f"{value!r} is a plugin of QRES itself; two of one name cannot be installed"
        raise click.BadParameter(msg)
    return value


def _check_hook(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from qres_core.kernel.index import plugin_index  # noqa: PLC0415

    if value == "transport":
        msg = (
            "there is no scaffold for 'transport'; implement qres_core.transport.Transport, and "
            f"read the built-in {plugin_index().examples['transport']!r} transport as an example"
        )
        raise click.BadParameter(msg)
    if value == "approve":
        example = plugin_index().example_distribution("credential")
        msg = f"'approve' belongs to the plugin that knows the swarm's authority; see {example}"
        raise click.BadParameter(msg)
    if value in {"revealable", "reveal_shard"}:
        example = plugin_index().example_distribution("privatize")
        msg = f"{value!r} belongs to the plugin that opens sums in 'reveal'; see {example}"
        raise click.BadParameter(msg)
    if value in {"identity", "credential"}:
        see = map(plugin_index().example_distribution, ("identity", "credential"))
        msg = f"{value!r} belongs to the plugin that holds the keys; see {' and '.join(see)}"
        raise click.BadParameter(msg)
    if value not in HOOKS and value not in OTHERS:
        from qres_core.contract.suggest import did_you_mean  # noqa: PLC0415

        msg = f"{value!r} is not a hook; {did_you_mean(value, [*HOOKS, *OTHERS])}"
        raise click.BadParameter(msg)
    return value


def _check_attack(name: str) -> None:
    from qres_core.attacks.installed import known  # noqa: PLC0415 - numpy

    if name in known():
        msg = f"there is an attack {name!r}; two of one name cannot be installed"
        raise click.BadParameter(msg, param_hint="NAME")


def write(files: dict[str, str], target: Path) -> None:
    """Write a new folder.

    Raises LabError: QRES-E803 if ``target`` exists. Nothing is changed. Raises OSError: the folder
    cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.mkdir()
    except FileExistsError as error:
        fix = "choose another name or --directory, or move it away"
        raise LabError.of("QRES-E803", str(target), "is there already", fix) from error
    for path, content in files.items():
        file = target / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8", newline="\n")


@click.command("new-plugin", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", callback=_check_name)
@click.option(
    "--hook",
    required=True,
    callback=_check_hook,
    metavar="HOOK",
    help=f"What the plugin is to do: {', '.join(sorted(HOOKS))}; or what else to make: "
    f"{', '.join(OTHERS)}.",
)
@click.option(
    "--directory",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Where to make the plugin's folder. Default: here.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made as JSON.")
def command(name: str, hook: str, directory: Path, *, as_json: bool) -> None:
    """Make a distribution for a new plugin, attack or trainer called NAME.

    It comes with a working implementation, tests that pass, and packaging. Nothing is downloaded,
    and nothing that exists is overwritten. The words of NAME may be joined by - or _: the
    distribution is called qres-my-name, and in configurations it is my_name.
    """
    plugin = name.replace("-", "_")
    if hook == "attack":
        _check_attack(plugin)
    files = render(name, hook)
    target = directory / f"qres_{plugin}"
    try:
        write(files, target)
    except OSError as error:
        msg = f"cannot write {target}: {error.strerror or error}"
        raise click.ClickException(msg) from error
    scaffold, dist = scaffold_of(hook), f"qres-{plugin.replace('_', '-')}"
    if as_json:
        report = {
            "plugin": plugin,
            "distribution": dist,
            "hooks": list(scaffold.hooks),
            "directory": str(target),
            "files": list(files),
        }
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(f"Made {dist} in {target}:")
    for path in files:
        click.echo(f"  {path}")
    click.echo(
        f"""
Next:
  cd {target}
  python -m pip install -e ".[test]"
  python -m pytest

Then use it in your swarm's TOML file and look at that with `qres check`:"""
    )
    for line in scaffold.toml(plugin, f"qres_{plugin}").splitlines():
        click.echo(f"  {line}")
