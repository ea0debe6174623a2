"""Asking a node for its status."""

from __future__ import annotations

import http.client
import io
import json
import socket
import time
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final, cast
from urllib.parse import urlsplit

from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError

MAX_REPORT: Final = 4 * 2**20
MAX_HEAD: Final = 2**16
"""Bytes of an answer beside the report."""
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
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname, parts.port or 80
    except ValueError as error:
        fix = "for example http://127.0.0.1:8470"
        raise ConfigError.of("QRES-E105", "--url", f"{url!r}: {error}", fix) from error
    if parts.scheme != "http" or not host or parts.path not in {"", "/"}:
        what = f"{url!r} is not the address of a node's status page"
        fix = "for example http://127.0.0.1:8470"
        raise ConfigError.of("QRES-E105", "--url", what, fix)
    try:
        said = _exchange(host, port, within)
        answer = http.client.HTTPResponse(cast("socket.socket", _WholeAnswer(said)), method="GET")
        answer.begin()
        report: object = json.loads(answer.read()) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    if not canonical.is_map(report) or report.get("version") != 1 or not _is_whole(report):
        return None
    return {str(name): printable(value) for name, value in report.items()}


class _WholeAnswer:
    """All bytes of an answer, as the socket that the standard library parses one from."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def makefile(self, _mode: str) -> io.BytesIO:
        """The bytes as a file."""
        return io.BytesIO(self._said)


def _exchange(host: str, port: int, within: float) -> bytes:
    """All that is answered. A byte now and then wins no time: the whole of it has a deadline.

    Raises OSError: nobody answers, or not in time. Raises ValueError: it is too long.
    """
    end = time.monotonic() + _STEPS * within
    name = f"[{host}]" if ":" in host else host
    said = bytearray()
    with socket.create_connection((host, port), timeout=within) as connection:
        asked = f"GET /status HTTP/1.1\r\nHost: {name}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(asked.encode())
        while True:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError
            connection.settimeout(min(within, left))
            if not (more := connection.recv(_CHUNK)):
                return bytes(said)
            said += more
            if len(said) > MAX_REPORT + MAX_HEAD:
                raise ValueError(len(said))


def _is_whole(report: Mapping[Any, Any]) -> bool:
    """True if it has the form of a status; another program may serve something else there."""
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


def printable(value: Any, depth: int = 0) -> Any:
    """A value without what would steer a terminal, and no deeper than a status is.

    ``depth``: of the value in what it is part of.
    """
    if isinstance(value, str):
        return "".join(sign if sign.isprintable() or sign == "\n" else "�" for sign in value)
    if depth == _DEEP:
        return None
    if canonical.is_map(value):
        return {printable(name): printable(item, depth + 1) for name, item in value.items()}
    if canonical.is_list(value):
        return [printable(item, depth + 1) for item in value]
    return value
