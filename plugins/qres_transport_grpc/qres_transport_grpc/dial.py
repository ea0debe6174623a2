"""A channel to a hub whose certificate has the digest that the operator named.

gRPC takes certificates to trust, and no digests. So the certificate is fetched first, over a
connection that shows nothing; one with the right digest is the only root that the channel trusts.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import ssl
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from qres_transport_grpc.wire import HUB_NAME, MESSAGE_BYTES, HubPlace

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it writes to stderr at every attempt that fails
import grpc as _grpc

GRPC: Final[Any] = _grpc

_OPTIONS: Final = (
    ("grpc.ssl_target_name_override", HUB_NAME),
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.use_local_subchannel_pool", 1),  # a closed channel leaves no connection to the next
)


class WrongHubError(Exception):
    """Certificate at a hub's address that is not the named one."""


def certificate(place: HubPlace, within: float) -> str:
    """The hub's certificate, in PEM, by way of the machine's proxy if it has one.

    Args:
        place: where it is, and its digest.
        within: seconds.

    Raises:
        OSError: nobody answers, or not in TLS.
        WrongHubError: its digest is another.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # what matters is the digest, below
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    connection = _connection(place, within, context)
    try:
        connection.connect()
        found: Any = connection.sock
        der: bytes = found.getpeercert(binary_form=True)
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()
    if hashlib.sha256(der).hexdigest() != place.digest:
        what = "another certificate than that of the hub's SHA256 in `hubs`"
        raise WrongHubError(what)
    return ssl.DER_cert_to_PEM_cert(der)


def _connection(
    place: HubPlace, within: float, context: ssl.SSLContext
) -> http.client.HTTPSConnection:
    host = place.host.strip("[]")
    proxy = getproxies().get("https", "")
    if not proxy or proxy_bypass(host):
        return http.client.HTTPSConnection(host, place.port, timeout=within, context=context)
    try:
        found = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        proxy_host, proxy_port = found.hostname or "", found.port or 80
    except ValueError:
        # Not the error itself: it names what it took for a port, which may be a password.
        what = (
            "https_proxy is no address of a proxy; write / # ? @ of a password as %2F %23 %3F %40"
        )
        raise OSError(what) from None
    made = http.client.HTTPSConnection(proxy_host, proxy_port, timeout=within, context=context)
    headers: dict[str, str] = {}
    if found.username is not None:
        pair = f"{unquote(found.username)}:{unquote(found.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    made.set_tunnel(host, place.port, headers)
    return made


def channel(place: HubPlace, pem: str) -> Any:
    """A channel that trusts this certificate alone."""
    credentials = GRPC.ssl_channel_credentials(root_certificates=pem.encode())
    return GRPC.secure_channel(place.address, credentials, options=_OPTIONS)
