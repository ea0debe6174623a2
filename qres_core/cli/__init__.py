"""The ``qres`` command."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Entry point of the console script."""
    hangup: signal.Signals | None = getattr(signal, "SIGHUP", None)
    if sys.argv[1:3] == ["node", "run"] and hangup is not None:
        # A reload when there is nothing to reload yet would end the process.
        signal.signal(hangup, lambda _number, _frame: None)
    try:
        from qres_core.cli.app import run  # noqa: PLC0415 - importing the package must stay cheap

        run()
    except KeyboardInterrupt:  # before or after the command itself
        sys.stderr.write("interrupted\n")
        sys.exit(130)
