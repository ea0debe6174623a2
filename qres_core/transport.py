"""Names that a transport implements, or is given."""

from qres_core.contract.transport import (
    CHUNK,
    AttendedTransport,
    BlobRef,
    Delivery,
    Handler,
    LinkKeys,
    LinkReason,
    PeerChange,
    PeerInfo,
    Transport,
    TransportEvent,
    TransportLimits,
    TransportStats,
)

__all__ = [
    "CHUNK",
    "AttendedTransport",
    "BlobRef",
    "Delivery",
    "Handler",
    "LinkKeys",
    "LinkReason",
    "PeerChange",
    "PeerInfo",
    "Transport",
    "TransportEvent",
    "TransportLimits",
    "TransportStats",
]
