"""Origin of a connection, for limits that many connections share."""

from __future__ import annotations

import ipaddress


def origin(host: str) -> str:
    """An address of IPv4, or the network of an IPv6 one: one host may have 2**64 of these.

    ``host``: an address as text, with or without a zone. Returns an empty text for what is none.

    Example:
        >>> origin("192.0.2.7"), origin("2001:db8::7%eth0"), origin("::ffff:192.0.2.7")
        ('192.0.2.7', '2001:db8::/64', '192.0.2.7')
    """
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
