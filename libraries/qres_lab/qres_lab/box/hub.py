"""The hub of a box whose nodes reach each other over one: a process beside theirs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.contract.errors import PluginError
from qres_lab.box import toml
from qres_lab.box.children import ask_to_end, end_child, start_child

STOP_SECONDS: Final = 10.0
"""For a hub to end after it was told to; then it is killed."""
HUB_LOG: Final = "log.txt"


@attrs.define(eq=False)
class BoxHub:
    """A hub and its process. It ends by itself when this process is gone, as nodes do."""

    folder: Path  # its own, with its key and its roster
    port: int  # where it listens, on loopback
    qres: Callable[..., list[str]]  # the command line of ``qres`` with some arguments
    option: str = ""  # what nodes name it by; empty before it is made
    process: subprocess.Popen[bytes] | None = None  # the child

    def make(self, swarm: str, roster: Sequence[str], made: Callable[..., dict[str, Any]]) -> None:
        """Write its roster and its key.

        Args:
            swarm: the name.
            roster: identities of the nodes, hexadecimal.
            made: runs a command of ``qres`` and returns its report.
        """
        self.folder.mkdir(mode=0o700)
        text = toml.render({"swarm": {"name": swarm, "roster": list(roster)}})
        (self.folder / "swarm.toml").write_text(text, encoding="utf-8")
        digest = made("hub", "key", str(self.folder / "hub.pem"))["digest"]
        self.option = f"127.0.0.1:{self.port}#{digest}"

    def start(self) -> None:
        """Start it, and wait until it listens.

        Raises PluginError: QRES-E201 where it does not.
        """
        arguments = ["hub", "run", str(self.folder / "swarm.toml"), "--until-eof", "--json"]
        arguments += ["--identity", str(self.folder / "hub.pem")]
        arguments += ["--listen", f"127.0.0.1:{self.port}"]
        with (self.folder / HUB_LOG).open("ab") as log:
            self.process = start_child(self.qres(*arguments), stdout=subprocess.PIPE, stderr=log)
        told = self.process.stdout
        if told is None or not told.readline():
            self.stop()
            what = f"the hub of the box does not start: see {self.folder / HUB_LOG}"
            fix = "install the distribution that brings `qres hub run`"
            raise PluginError.of("QRES-E201", "qres swarm up", what, fix)

    def look_after(self) -> Iterator[str]:
        """Start it again if it is gone; a sentence about that."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            self.stop()
            self.start()
            yield f"the hub ended with code {code} and was started again"

    def stop(self) -> None:
        """End it: it is asked, and after a while killed. Idempotent."""
        process, self.process = self.process, None
        if process is None:
            return
        ask_to_end(process)
        end_child(process, STOP_SECONDS)
