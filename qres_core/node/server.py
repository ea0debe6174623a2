"""A small HTTP server for the status: GET and HEAD, one request a connection, everything bounded.

The parsing is h11's. A browser can be led to this port by any page on the web, so:

- the ``Host`` must be an address, ``localhost`` or a configured name, or a foreign name that was
  made to point here could read the answers (DNS rebinding);
- nothing is changed by a request, no answer may be read across origins, and the page may load
  nothing from anywhere.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

import anyio
import attrs
import h11
from anyio.abc import SocketAttribute, SocketStream, TaskGroup, TaskStatus

from qres_core.contract.errors import ConfigError
from qres_core.node import metrics
from qres_core.node.logs import Throttle
from qres_core.node.page import Page, page

CONNECTIONS: Final = 32
"""Served at a time; for one more, the one that lasted longest is closed."""
SECONDS: Final = 5.0
"""For the whole of a request and its answer."""
MAX_HEAD: Final = 8192
"""Bytes of a request's line and headers."""
PAUSE: Final = 0.1
"""Seconds before the next attempt, where no connection can be accepted."""
_COMMON: Final = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
PATHS: Final = ("/", "/status", "/metrics", "/healthz", "/readyz")
_METHODS: Final = "GET, HEAD"
_NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"

_LOG: Final = logging.getLogger(__name__)

Report: TypeAlias = Callable[[], Mapping[str, Any]]
Trouble: TypeAlias = Callable[[], str]


@attrs.frozen
class HttpResponse:
    """Answer that is sent back."""

    status: int
    kind: str
    body: bytes
    policy: str = _NOTHING


def _plain(status: int, text: str) -> HttpResponse:
    return HttpResponse(status, "text/plain; charset=utf-8", f"{text}\n".encode())


def parse_address(text: str) -> tuple[str, int]:
    """``127.0.0.1:8470`` or ``[::1]:8470`` as an address and a port.

    Raises ConfigError: QRES-E105.
    """
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        number = int(port) if port.isascii() and port.isdigit() else -1
        address = ipaddress.ip_address(bare)
        if not 0 <= number < 65536 or (address.version == 6) != (bare != host):
            raise ValueError(text)  # noqa: TRY301 - one refusal for all
    except ValueError as error:
        fix = 'write ADDRESS:PORT, for example "127.0.0.1:8470" or "[::1]:8470"'
        what = f"{text!r} is not an address and a port"
        raise ConfigError.of("QRES-E105", "node.status", what, fix) from error
    return bare, number


def host_allowed(host: str, names: frozenset[str]) -> bool:
    """True if a request may have come by this ``Host``: an address, ``localhost`` or a known name.

    Example:
        >>> host_allowed("127.0.0.1:8470", frozenset()), host_allowed("evil.example", frozenset())
        (True, False)
    """
    name = host.strip().lower()
    if name.startswith("["):
        name, bracket, rest = name[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            return False
    else:
        name = name.partition(":")[0]
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@attrs.define(eq=False)
class StatusServer:
    """Serves the pages of :data:`PATHS`."""

    address: tuple[str, int]  # where to listen; port 0 for any
    report: Report  # makes the status, in the event loop's thread
    # why the node does not take part, asked there too; empty where it does
    trouble: Trouble
    # names beside addresses and ``localhost`` under which it may be asked
    names: frozenset[str] = frozenset()
    url: str = attrs.field(default="", init=False)
    _page: Page = attrs.field(factory=page, init=False)
    _throttle: Throttle = attrs.field(factory=lambda: Throttle(time.monotonic), init=False)
    _serving: dict[object, anyio.CancelScope] = attrs.field(
        factory=dict[object, anyio.CancelScope], init=False
    )

    async def serve(self, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen until cancelled; ``started`` with the URL.

        Raises ConfigError: QRES-E105 where it cannot listen.
        """
        host, port = self.address
        try:
            multi = await anyio.create_tcp_listener(local_host=host, local_port=port)
        except OSError as error:
            what = f"cannot listen on {host} port {port}: {error.strerror or error}"
            fix = 'choose another address, or "" for none'
            raise ConfigError.of("QRES-E105", "node.status", what, fix) from error
        async with multi, anyio.create_task_group() as group:
            bound = multi.listeners[0].extra(SocketAttribute.local_port)  # noqa: S610 - no Django
            self.url = f"http://{f'[{host}]' if ':' in host else host}:{bound}"
            task_status.started(self.url)
            for listener in multi.listeners:
                group.start_soon(self._accept, listener, group)

    async def _accept(self, listener: Any, group: TaskGroup) -> None:
        """Take connections; a shortage, say of files, or a client that left ends nothing."""
        failing = False
        while True:
            try:
                stream: SocketStream = await listener.accept()
            except (OSError, anyio.BrokenResourceError) as error:  # under trio it is the cause
                if not failing and self._throttle.admit("accept") is not None:
                    _LOG.warning(
                        "the status page takes no connections: %s", error.__cause__ or error
                    )
                failing = True
                await anyio.sleep(PAUSE)
            else:
                failing = False
                group.start_soon(self._connection, stream)

    async def _connection(self, stream: SocketStream) -> None:
        async with stream:
            # Whoever holds connections open must not keep out those that ask whether all is well:
            # a node that does not answer them is restarted. What is asked is answered at once.
            if len(self._serving) >= CONNECTIONS:
                self._serving.pop(next(iter(self._serving))).cancel()
            with (
                anyio.move_on_after(SECONDS) as scope,
                suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError),
            ):
                self._serving[stream] = scope
                try:
                    await self._one(stream)
                finally:
                    self._serving.pop(stream, None)

    async def _one(self, stream: SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
        is_head = False
        try:
            request = await self._request(connection, stream)
        except h11.RemoteProtocolError as error:
            answer = _plain(error.error_status_hint, "bad request")
        else:
            if request is None:
                return
            is_head = request.method == b"HEAD"
            answer = self._answer(request)
        headers = {
            **_COMMON,
            "Content-Type": answer.kind,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": answer.policy,
        }
        if answer.status == 405:
            headers["Allow"] = _METHODS
        head = h11.Response(status_code=answer.status, headers=list(headers.items()))
        with suppress(h11.LocalProtocolError):  # the request was too broken to be answered
            body = () if is_head else (h11.Data(data=answer.body),)
            sent = (head, *body, h11.EndOfMessage())
            await stream.send(b"".join(connection.send(part) or b"" for part in sent))
            await stream.send_eof()

    @staticmethod
    async def _request(connection: h11.Connection, stream: SocketStream) -> h11.Request | None:
        taken = 0
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is not h11.NEED_DATA:
                return None
            try:
                data = await stream.receive(MAX_HEAD)
            except anyio.EndOfStream:
                return None
            taken += len(data)
            if taken > MAX_HEAD:
                what = "the request is too long"
                raise h11.RemoteProtocolError(what, error_status_hint=431)
            connection.receive_data(data)

    def _answer(self, request: h11.Request) -> HttpResponse:
        try:
            return self.answer(request)
        except Exception:  # noqa: BLE001 - the report asks plugins; no question ends a node
            _LOG.exception("the status could not be made")
            return _plain(500, "the status could not be made; see the log")

    def answer(self, request: h11.Request) -> HttpResponse:
        """Answer a request."""
        hosts = [value for name, value in request.headers if name == b"host"]
        if len(hosts) != 1 or not host_allowed(hosts[0].decode("latin-1"), self.names):
            return _plain(421, "ask by address, as localhost, or add the name to node.status_names")
        if request.method not in {b"GET", b"HEAD"}:
            return _plain(405, f"only {_METHODS}")
        made = zip(PATHS, self._pages(), strict=True)
        pages: dict[str, Callable[[], HttpResponse]] = dict(made)
        page = pages.get(request.target.partition(b"?")[0].decode("latin-1"))
        return _plain(404, f"there are {', '.join(PATHS)}") if page is None else page()

    def _pages(self) -> tuple[Callable[[], HttpResponse], ...]:
        """Makers of each page of :data:`PATHS`."""

        def status() -> HttpResponse:
            return HttpResponse(200, "application/json", json.dumps(self.report()).encode())

        def numbers() -> HttpResponse:
            return HttpResponse(200, metrics.CONTENT_TYPE, metrics.render(self.report()))

        def ready() -> HttpResponse:
            why = self.trouble()
            return _plain(503, why) if why else _plain(200, "ok")

        html = HttpResponse(200, "text/html; charset=utf-8", self._page.html, self._page.policy)
        return lambda: html, status, numbers, lambda: _plain(200, "ok"), ready
