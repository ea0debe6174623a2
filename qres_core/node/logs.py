"""Structured logs: one event a line, to stderr, as JSON or for people.

Only named fields are logged, never a configuration table or an environment: keys, passphrases and
data do not get here. What other nodes cause is throttled, so that a flood of bad messages is no
flood of lines.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any, Final, TextIO

import attrs
import structlog

OWN: Final = "qres_core"
BURST: Final = 10
"""Lines of one kind that are let through in a period."""
PERIOD: Final = 10.0
KINDS: Final = 256
"""Kinds told apart; all others share one allowance."""

Processor = Callable[[Any, str, Any], Any]


def set_up(level: str, form: str, stream: TextIO | None = None) -> structlog.stdlib.BoundLogger:
    """Send all logging of the process through structlog.

    Libraries are heard from ``warning`` on, QRES from ``level`` on.

    Args:
        level: as ``node.log_level``.
        form: ``json`` or ``console``.
        stream: where to; stderr if not given.
    """
    where = sys.stderr if stream is None else stream
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
    ]
    if form == "json":
        last += [structlog.processors.JSONRenderer()]
    else:
        # structlog's own way to show a traceback shows local variables too, keys among them.
        plain = structlog.dev.plain_traceback
        colors = where.isatty()
        renderer = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)
        last += [_harmless, renderer]
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=last, foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name]
    )
    handler = logging.StreamHandler(where)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.lastResort = handler  # for libraries that cut their loggers off from the root
    set_level(level)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(f"{OWN}.node")
    return log


def _harmless(_logger: Any, _name: str, event: dict[str, Any]) -> dict[str, Any]:
    """Without what steers a terminal or makes a line: libraries log what peers sent them.

    The renderer itself sees to the other fields.
    """
    kept = {"event": "", "exception": "\n"}
    for name, allowed in kept.items():
        if name in event:
            event[name] = "".join(
                sign if sign.isprintable() or sign in allowed else f"\\x{ord(sign):02x}"
                for sign in str(event[name])
            )
    return event


def set_level(level: str) -> None:
    """From which level on QRES is heard, as ``node.log_level``."""
    logging.getLogger(OWN).setLevel(level.upper())


@attrs.define(eq=False)
class Throttle:
    """Lets a few events of each kind through in a period, and counts the rest."""

    clock: Callable[[], float]  # seconds, never going back
    _seen: dict[str, tuple[float, int]] = attrs.field(factory=dict[str, tuple[float, int]])

    def admit(self, kind: str) -> int | None:
        """``None`` to say nothing, else how many were held back since the last that passed."""
        now = self.clock()
        if kind not in self._seen and len(self._seen) >= KINDS:
            kind = ""
        since, count = self._seen.get(kind, (now, 0))
        if now >= since + PERIOD:
            self._seen[kind] = now, 1
            return max(0, count - BURST)
        self._seen[kind] = since, count + 1
        return 0 if count < BURST else None
