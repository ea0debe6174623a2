"""Asking a node for its status."""

from __future__ import annotations

import http.client
import json
from typing import Any, Final
from urllib.parse import urlsplit

from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError

MAX_REPORT: Final = 4 * 2**20
SECONDS: Final = 5.0


def ask(url: str, within: float = SECONDS) -> dict[str, Any] | None:
    """The status of the node at ``url``; ``None`` where there is no such answer.

    Args:
        url: ``http://ADDRESS:PORT``, or that without ``http://``.
        within: seconds for each step of the exchange.

    Raises:
        ConfigError: QRES-E105 for another kind of URL.
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
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        body = answer.read(MAX_REPORT + 1)
        report: object = json.loads(body) if answer.status == 200 else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    if not canonical.is_map(report) or len(body) > MAX_REPORT or report.get("version") != 1:
        return None
    return dict(report)
