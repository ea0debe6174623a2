"""``python -m qres_core.cli``, where the script ``qres`` is not on the path."""

from __future__ import annotations

from qres_core.cli import main

main()
