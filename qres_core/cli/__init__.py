"""The ``qres`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        from qres_core.cli.app import run  # noqa: PLC0415 - importing the package must stay cheap

        run()
    except KeyboardInterrupt:  # before or after the command itself
        sys.stderr.write("interrupted\n")
        sys.exit(130)
