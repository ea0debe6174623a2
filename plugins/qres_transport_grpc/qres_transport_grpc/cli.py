"""``qres hub``: run a hub for nodes behind firewalls."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Final

import click

MOST_FILES: Final = 16384
"""Of a hub: shells give 1024, which one host fills, and each connection costs up to 60 kB."""
_FILE = click.Path(path_type=Path, dir_okay=False)


def _finite(_context: click.Context, _option: click.Parameter, value: float) -> float:
    """A number that limits something: ``nan`` is in every range."""
    if not math.isfinite(value):
        what = f"{value} is no limit"
        raise click.BadParameter(what)
    return value


def _take_connections() -> None:
    """Have files open for :data:`MOST_FILES` connections, as far as the system allows that.

    Strangers hold some for seconds, without a stream.
    """
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:  # pragma: no cover - Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_FILES if hard == resource.RLIM_INFINITY else min(MOST_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@click.group("hub")
def hub() -> None:
    """Run a hub, over which nodes behind firewalls reach each other.

    Nobody has to trust a hub: it can drop and delay messages, and neither read nor change them.
    """


@hub.command("key")
@click.argument("identity", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def key(identity: Path, *, as_json: bool) -> None:
    """Print the SHA-256 of a hub's certificate, and make its file IDENTITY where there is none."""
    from qres_transport_grpc.identity import HubIdentity  # noqa: PLC0415 - cryptography

    digest = HubIdentity.read(identity).digest
    click.echo(json.dumps({"ok": True, "digest": digest}) if as_json else digest)


@hub.command("run")
@click.argument("config", type=_FILE)
@click.option("--identity", type=_FILE, required=True, help="The hub's key; made where none is.")
@click.option(
    "--listen", default="0.0.0.0:443", show_default=True, help="Where, as HOST:PORT; 0 is any port."
)
@click.option(
    "--megabytes-per-second",
    "rate",
    default=64.0,
    show_default=True,
    type=click.FloatRange(0.1),
    callback=_finite,
    help="What one member may send, on average.",
)
@click.option(
    "--megabytes-waiting",
    "memory",
    default=1024,
    show_default=True,
    type=click.IntRange(64),
    help="What may wait for all members together; more is dropped.",
)
@click.option("--until-eof", is_flag=True, help="End when standard input ends.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def run(
    config: Path,
    identity: Path,
    listen: str,
    rate: float,
    memory: int,
    *,
    until_eof: bool,
    as_json: bool,
) -> None:
    """Serve the members that CONFIG names, until Ctrl-C.

    CONFIG is a node's configuration; only [swarm] name and roster count, and [hub.keys] for keys
    that were replaced. It is read again when it changes.
    """
    import asyncio  # noqa: PLC0415 - `qres --help` loads this module
    import logging  # noqa: PLC0415
    import signal  # noqa: PLC0415
    import sys  # noqa: PLC0415
    import threading  # noqa: PLC0415

    from qres_transport_grpc.identity import HubIdentity  # noqa: PLC0415
    from qres_transport_grpc.roster import HubRoster  # noqa: PLC0415
    from qres_transport_grpc.server import HubServer, serve  # noqa: PLC0415 - gRPC

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    _take_connections()
    known = HubIdentity.read(identity)
    server = HubServer(known, HubRoster(config), rate * 1e6, memory * 2**20)

    def ready(port: int) -> None:
        host = listen.rpartition(":")[0]
        option = f"{host}:{port}#{known.digest}"
        if as_json:
            report = {"ok": True, "port": port, "digest": known.digest}
            click.echo(json.dumps(report))
        else:
            click.echo(f"the hub listens; nodes name its public address in hubs:\n    {option}")

    async def main() -> None:
        until, loop = asyncio.Event(), asyncio.get_running_loop()

        def stop(_signal: int, _frame: object) -> None:
            loop.call_soon_threadsafe(until.set)

        def wait_for_eof() -> None:
            while sys.stdin.buffer.read(4096):
                pass
            with contextlib.suppress(RuntimeError):  # it has ended already
                loop.call_soon_threadsafe(until.set)

        if until_eof:
            threading.Thread(target=wait_for_eof, daemon=True).start()
        signal.signal(signal.SIGTERM, stop)  # ctrl-C ends this program as it ends all others
        await serve(server, listen, ready, until)

    asyncio.run(main())
