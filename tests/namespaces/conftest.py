"""Tests in network namespaces: modules of `scripts` are found; some machines have none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.append(str(SCRIPTS))


@pytest.fixture
def routed() -> Generator[Callable[..., Any]]:
    """Makes a network as `Routed` does; it is gone after the test."""
    from trials.routed import Routed, unavailable  # noqa: PLC0415 - found from here on

    if why := unavailable():
        pytest.skip(why)
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(Routed(*arguments, **options))
