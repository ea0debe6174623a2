"""``qres node``: run a node, and ask one how it is."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import click

from qres_core.cli.options import parse_setting, policy_option, read_config
from qres_core.contract.errors import ConfigError

DEFAULT_URL: Final = "127.0.0.1:8470"


@click.group("node")
def command() -> None:
    """Run a node, and ask one how it is."""


def standard_input() -> int:
    """Its descriptor. Raises click.UsageError where the process was started without it."""
    if sys.stdin is None:  # as of `<&-`
        what = "--until-eof: there is no standard input whose end could be waited for"
        raise click.UsageError(what)
    return sys.stdin.fileno()


@command.command("run")
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--rounds", type=click.IntRange(1), help="Stop at this model, counted from the first."
)
@click.option(
    "--linger",
    type=click.FloatRange(0),
    default=30.0,
    show_default=True,
    help="Seconds to go on helping the others after the last of --rounds.",
)
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    help="Instead of node.log_level.",
)
@click.option(
    "--log-format",
    type=click.Choice(("auto", "json", "console")),
    default="auto",
    help="auto: for people on a terminal, else JSON, one event a line.",
)
@click.option("--until-eof", is_flag=True, help="Stop too when standard input ends.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Print the last status as JSON at the end.")
def run(
    config: Path,
    *,
    rounds: int | None,
    linger: float,
    log_level: Literal["debug", "info", "warning", "error"] | None,
    log_format: str,
    until_eof: bool,
    settings: tuple[str, ...],
    policy_files: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Run the node of CONFIG until SIGTERM, ctrl-C or the last of --rounds.

    Logs go to stderr. A node that was stopped, or killed, goes on where it was when it is started
    again with the same data folder. A second signal stops it without waiting for what is on its
    way. At SIGHUP it reads CONFIG again, as `qres node reload` tells it to.

    Exit code 0 if it was stopped, made all rounds or is no member any more, 1 if it took part and
    had to stop (its model differs from a quorum's, or its disk, its transport or a plugin failed),
    2 if it was refused before it took part.
    """
    from qres_core.node import extra  # noqa: PLC0415 - numpy and more

    extra.require()
    from qres_core.kernel.policy import in_force  # noqa: PLC0415
    from qres_core.node import daemon, logs  # noqa: PLC0415

    given = [parse_setting(text) for text in settings]
    if log_level is not None:
        given.append(("node.log_level", log_level))
    read = read_config(config, given)
    form = log_format if log_format != "auto" else "console" if sys.stderr.isatty() else "json"

    def say(report: Mapping[str, Any]) -> None:
        click.echo(json.dumps(report))

    log = logs.set_up(read.node.log_level, form)
    code = daemon.run(
        read,
        log,
        rounds=rounds,
        linger=linger,
        policies=in_force(policy_files),
        report=say if as_json else None,
        leash=standard_input() if until_eof else None,
        reread=lambda: read_config(config, given),
    )
    sys.stdout.flush()
    sys.stderr.flush()
    if any(
        item is not threading.main_thread() and not item.daemon for item in threading.enumerate()
    ):
        # A fit under way cannot be told to stop, and nobody wants its result.
        os._exit(code)
    sys.exit(code)


@command.command("reload")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
def reload(config: Path, *, settings: tuple[str, ...]) -> None:
    """Have the running node of CONFIG read it again.

    The node takes other `peers` of the transport and another `node.log_level`. If any other key
    changed, it names the key and takes nothing. `--set` names the node's folder and status address
    where the running node was given them so.

    Exit code 0 if the node took it, 1 if it refused it or does not answer, 2 if none runs.
    """
    from qres_core.kernel.kernel import Kernel  # noqa: PLC0415 - numpy
    from qres_core.node.ask import ask  # noqa: PLC0415
    from qres_core.node.calling import call, heard  # noqa: PLC0415

    read = read_config(config, [parse_setting(text) for text in settings])
    node_id = Kernel.from_config(read).identity(None)
    if node_id is None or read.node.data_dir is None:
        what = "the node has no key or no folder, so that none can run"
        raise ConfigError.of("QRES-E103", "node.data_dir", what, "see `qres check`")
    url = read.node.status
    before = ask(url) if url else None
    since = time.time()
    call(Path(read.node.data_dir, node_id.hex()))
    told = heard(lambda: ask(url), before, since) if url else None
    if told is None:
        click.echo("the node was told; it does not say what came of it, so see its log", err=True)
        sys.exit(1)
    for problem in told["problems"]:
        click.echo(problem, err=True)
    if told["problems"]:
        sys.exit(1)
    click.echo(f"taken: {', '.join(told['taken']) or 'nothing changed'}")


@command.command("doctor")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@policy_option
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def doctor(
    config: Path, *, settings: tuple[str, ...], policy_files: tuple[Path, ...], as_json: bool
) -> None:
    """Find what keeps the node of CONFIG from taking part, and say what to do.

    It looks at the file, the site policies, the key, the roster, the disk, the ports, the clock and
    each peer. The node may run or not. It changes nothing, and runs no code of a trainer.

    Exit code 0 if all is well, 1 if something is to be mended.
    """
    from qres_core.node import extra  # noqa: PLC0415 - numpy and more

    extra.require()
    from qres_core.kernel.policy import in_force  # noqa: PLC0415
    from qres_core.node.ask import printable  # noqa: PLC0415
    from qres_core.node.doctor import Doctor  # noqa: PLC0415

    given = [parse_setting(text) for text in settings]
    examined = Doctor(lambda: read_config(config, given), policies=lambda: in_force(policy_files))
    found = list(examined.findings())
    if as_json:
        said = [
            {"where": it.where, "well": it.well, "what": it.what, "fix": it.fix} for it in found
        ]
        click.echo(json.dumps({"well": all(it.well for it in found), "findings": said}, indent=2))
    else:
        for item in found:
            lines = [f"{'ok  ' if item.well else 'BAD '} {item.where}: {item.what}"]
            if not item.well and item.fix:
                lines.append(f"     to do: {item.fix}")
            for line in lines:  # a line each, whatever a hub or a proxy said
                click.echo(printable(line.replace("\n", " ")))
    sys.exit(0 if all(item.well for item in found) else 1)


@command.command("status")
@click.option("--url", help=f"Where the node serves it. Without a node's folder: {DEFAULT_URL}.")
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of a node.toml, or of a box that `qres swarm up --folder` made: all its nodes are "
    "asked. Left out, the current folder if it is one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the status as JSON.")
def status(*, url: str | None, folder: Path | None, as_json: bool) -> None:
    """Print what a running node, or every node of a box, says of itself.

    Exit code 0 if it answered, 1 if one that was asked did not.
    """
    if url is not None and folder is not None:
        fix = "give --url for one node, or --folder for those of a box"
        raise ConfigError.of("QRES-E105", "--url", "--folder is given too", fix)
    from qres_core.node.finding import addresses  # noqa: PLC0415

    found: Mapping[str, str] = (
        {} if url is not None else addresses(Path() if folder is None else folder)
    )
    if folder is not None and not found:
        fix = "name the folder that `qres swarm up --folder` made, or give --url ADDRESS:PORT"
        what = "holds no node.toml, and no node-0/node.toml"
        raise ConfigError.of("QRES-E101", str(folder), what, fix)
    if len(found) > 1:
        _status_of_box(found, as_json=as_json)
    else:
        _status_of_node(url or next(iter(found.values()), DEFAULT_URL), as_json=as_json)


def _status_of_node(url: str, *, as_json: bool) -> None:
    from qres_core.node.ask import ask  # noqa: PLC0415

    report = ask(url)
    if report is None:
        said = "give --url ADDRESS:PORT, or --folder of a box"
        click.echo(f"no node answers at {url}; {said}", err=True)
        sys.exit(1)
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    from qres_core.cli.console import console  # noqa: PLC0415 - rich
    from qres_core.cli.live import node_tables  # noqa: PLC0415

    where = console()
    for part in node_tables(report):
        where.print(part)


def _status_of_box(found: Mapping[str, str], *, as_json: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    from qres_core.node.ask import ask  # noqa: PLC0415

    with ThreadPoolExecutor(max_workers=len(found)) as threads:
        reports = dict(zip(found, threads.map(ask, found.values()), strict=True))
    if as_json:
        nodes = [
            {"name": name, "url": f"http://{url}", "status": reports[name]}
            for name, url in found.items()
        ]
        click.echo(json.dumps({"nodes": nodes}, indent=2))
    else:
        from qres_core.cli.console import console  # noqa: PLC0415 - rich
        from qres_core.cli.live import swarm_table  # noqa: PLC0415

        rows = [(name, f"http://{url}", reports[name]) for name, url in found.items()]
        console().print(swarm_table("the nodes of the box", rows, second="status"))
    if None in reports.values():
        sys.exit(1)
