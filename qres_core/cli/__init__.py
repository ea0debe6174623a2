"""The ``qres`` command."""

from __future__ import annotations


def main() -> None:
    """Entry point of the console script."""
    from qres_core.cli.app import run  # noqa: PLC0415 - importing the package must stay cheap

    run()
