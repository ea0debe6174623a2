"""Errors of the tasks around a node, as one wants to see them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager

import anyio
from anyio.abc import TaskGroup

from qres_core.contract.errors import QresError, RoundError


@asynccontextmanager
async def task_group() -> AsyncGenerator[TaskGroup]:
    """A task group that raises the one error that ended it as it is, not in a group."""
    try:
        async with anyio.create_task_group() as group:
            yield group
    except BaseExceptionGroup as group_error:
        first, *others = group_error.exceptions
        if others:
            raise
        raise first from first.__cause__


@contextmanager
def transport_errors(doing: str) -> Generator[None]:
    """Give what a transport raises its name, QRES-E603."""
    try:
        yield
    except QresError:
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise RoundError.of("QRES-E603", f"transport.{doing}", what) from error
