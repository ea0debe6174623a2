"""The command group: verbs are imported when they run, errors are told and end with code 2."""

from __future__ import annotations

import errno
import functools
import importlib
import os
import sys
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from qres_core.cli.errors import tell
from qres_core.contract.errors import PluginError, QresError
from qres_core.contract.version import __version__
from qres_core.kernel.discovery import COMMANDS_GROUP, site_directories

VERBS: Final = {
    "simulate": "Play a swarm from a configuration on a virtual clock.",
    "node": "Run a node, and ask one how it is.",
    "roster": "Change the members of a swarm while it runs, and see them.",
    "model": "Get a swarm's model out, and check that the swarm decided it.",
    "plugins": "List the installed plugins, importing none.",
    "check": "Say whether a configuration would start, and what it would run.",
    "explain": "Explain the id of an error.",
    "init": "Write a commented configuration for the plugins installed.",
    "upgrade-code": "Rewrite a plugin's code for this version of the public names.",
}


INTERRUPTED: Final = 130
"""Exit code after ctrl-C: 128 and the number of SIGINT."""

_OF_OUTPUT: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a disk says that takes no output. An error of a named file is something else."""


class Verbs(click.Group):
    """A group whose verbs live in modules of their own, loaded on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All verbs: the built-in ones, then those of other distributions."""
        return [*VERBS, *plugin_verbs()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the verb.

        Raises PluginError: QRES-E201 says which distribution brings a verb that is not installed.
        """
        if cmd_name in VERBS:
            module = importlib.import_module(f"qres_core.cli.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        found = plugin_verbs().get(cmd_name)
        if found is None:
            from qres_core.kernel.index import not_installed, plugin_index  # noqa: PLC0415 - rare

            ours = plugin_index().brought[COMMANDS_GROUP]
            if cmd_name in ours:
                raise PluginError((not_installed(cmd_name, ours[cmd_name], f"qres {cmd_name}"),))
            return None
        loaded: object = found.load()
        if not isinstance(loaded, click.Command):
            what = f"{found.value} is not a click command"
            fix = "tell the authors of the distribution that brings it"
            raise PluginError.of("QRES-E206", f"{COMMANDS_GROUP}.{cmd_name}", what, fix)
        return loaded

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; ctrl-C ends it with one line and its own exit code."""
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, click.Abort) as error:
            # Click turns ctrl-C at a prompt, and the end of its input, into Abort.
            if isinstance(error, click.Abort) and not isinstance(
                error.__context__, KeyboardInterrupt
            ):
                raise
            stop()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list in ``--help``, without importing any verb."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))
        if verbs := plugin_verbs():
            with formatter.section("Commands of other distributions"):
                formatter.write_dl([(name, _described(ep)) for name, ep in verbs.items()])


def _described(verb: EntryPoint) -> str:
    """Describe a plugin's verb, and name the distribution that brings it, without importing it."""
    from qres_core.kernel.inspection import summary_of  # noqa: PLC0415 - only --help asks

    brought = verb.value if verb.dist is None else verb.dist.name
    summary = summary_of(verb.value)
    return f"{summary} ({brought})." if summary else f"A command of {brought}."


@functools.cache
def plugin_verbs() -> dict[str, EntryPoint]:
    """Verbs that installed distributions bring, imported only when they are run.

    As with plugins, metadata outside site-packages does not count, and a name that two
    distributions bring is nobody's.
    """
    found: dict[str, dict[tuple[Path, str], EntryPoint]] = {}
    trusted = site_directories()
    for distribution in distributions():
        entries = [ep for ep in distribution.entry_points if ep.group == COMMANDS_GROUP]
        home = Path(str(distribution.locate_file(""))).resolve()
        if entries and home in trusted:
            for entry in entries:  # a folder may be on sys.path twice
                found.setdefault(entry.name, {})[home, entry.value] = entry
    return {
        name: next(iter(item.values())) for name, item in sorted(found.items()) if len(item) == 1
    }


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qres")
def app() -> None:
    """Collaborative learning among nodes that do not trust each other.

    Every defence is a plugin, switched on by its table in a TOML file.
    """


def stop() -> NoReturn:
    """End as shells say that ctrl-C ended a command; 1 could be taken for its result."""
    click.echo("interrupted", err=True)
    sys.exit(INTERRUPTED)


def run() -> None:
    """Run the command line; exit 2 for whatever QRES refuses, 130 for ctrl-C."""
    try:
        app(prog_name="qres")
    except QresError as error:
        tell(error, as_json="--json" in sys.argv)
        sys.exit(2)
    except OSError as error:
        if error.filename is not None or error.errno not in _OF_OUTPUT:
            raise
        click.echo(f"qres: the output cannot be written: {error.strerror or error}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is not tried again at the end
        sys.exit(2)
