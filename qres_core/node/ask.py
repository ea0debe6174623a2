"""Asking a node for its status."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final
from urllib.parse import urlsplit

from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError

MAX_REPORT: Final = 4 * 2**20
SECONDS: Final = 5.0
_STEPS: Final = 3
"""So many times as long as a step the whole answer may take."""
_CHUNK: Final = 2**16
_DEEP: Final = 16
_FORM: Final[Mapping[str, type | tuple[type, ...]]] = {
    "node": dict,
    "swarm": dict,
    "rounds": dict,
    "round": int,
    "step": int,
    "model_digest": str,
    "history": list,
    "metrics": dict,
    "members": list,
    "peers": list,
    "plugins": list,
    "rejections": dict,
    "privacy": (dict, NoneType),
}
"""What a node that runs says of itself, as far as it is shown."""
_ROSTER: Final = {"epoch": int, "digest": str, "threshold": int, "waiting": list}
_WAITING: Final[Mapping[str, type | tuple[type, ...]]] = {
    "action": str,
    "member": str,
    "successor": (str, NoneType),
    "signed": int,
    "approved": bool,
}
_NONE: Final[Mapping[str, list[Any]]] = {"waiting": []}
_MAPS: Final = ("history", "members", "peers")


def ask(url: str, within: float = SECONDS) -> dict[str, Any] | None:
    """The status of the node at ``url``; ``None`` where there is no such answer.

    ``url``: ``http://ADDRESS:PORT``, or that without ``http://``; ``within``: seconds for each step
    of the exchange. Raises ConfigError: QRES-E105 for another kind of URL.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        fix = "for example http://127.0.0.1:8470"
        raise ConfigError.of("QRES-E105", "--url", f"{url!r}: {error}", fix) from error
    if parts.scheme != "http" or not host or parts.path not in {"", "/"}:
        what = f"{url!r} is not the address of a node's status page"
        fix = "for example http://127.0.0.1:8470"
        raise ConfigError.of("QRES-E105", "--url", what, fix)
    connection = http.client.HTTPConnection(host, port, timeout=within)
    end = time.monotonic() + _STEPS * within
    body = b""
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        while chunk := answer.read1(_CHUNK):
            body += chunk
            if len(body) > MAX_REPORT or time.monotonic() > end:
                return None
        report: object = json.loads(body) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
    if not canonical.is_map(report) or report.get("version") != 1 or not _is_whole(report):
        return None
    return {str(name): _printable(value) for name, value in report.items()}


def _is_whole(report: Mapping[Any, Any]) -> bool:
    """Whether it has the form of a status; another program may serve something else there."""
    state = report.get("state")
    if state != "running":
        return isinstance(state, str)
    return (
        all(name in report and isinstance(report[name], form) for name, form in _FORM.items())
        and all(canonical.is_map(item) for name in _MAPS for item in report[name])
        and (report.get("roster") is None or _has_form(report["roster"], _ROSTER))
        and all(_has_form(item, _WAITING) for item in (report.get("roster") or _NONE)["waiting"])
    )


def _has_form(value: object, form: Mapping[str, type | tuple[type, ...]]) -> bool:
    return canonical.is_map(value) and all(
        name in value and isinstance(value[name], kind) for name, kind in form.items()
    )


def _printable(value: Any, depth: int = 0) -> Any:
    """A value without what would steer a terminal, and no deeper than a status is."""
    if isinstance(value, str):
        return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in value)
    if depth == _DEEP:
        return None
    if canonical.is_map(value):
        return {_printable(name): _printable(item, depth + 1) for name, item in value.items()}
    if canonical.is_list(value):
        return [_printable(item, depth + 1) for item in value]
    return value
