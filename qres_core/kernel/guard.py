"""Errors in the code of a plugin: each is a fault of the plugin, whatever it raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class PassingError(BaseException):
    """Error that QRES sends through a plugin to its caller; no plugin takes it as its own."""


class EndedError(Exception):
    """A plugin raised what would end the process; the message says what."""


def guarded(call: Callable[P, R]) -> Callable[P, R]:
    """A call of a plugin that raises exceptions and Ctrl-C, and nothing else.

    A ``SystemExit`` or a ``CancelledError`` would pass by whatever looks after the plugin, and end
    the node without a word. The returned callable raises EndedError for these.
    """

    def run(*arguments: P.args, **named: P.kwargs) -> R:
        try:
            return call(*arguments, **named)
        except (Exception, KeyboardInterrupt, PassingError):
            raise
        except BaseException as error:
            what = f"raised {type(error).__name__}: {error}, which would end the process"
            raise EndedError(what) from error

    return run
