"""libp2p for QRES: gossip, requests and blobs between the nodes of a roster."""

from __future__ import annotations

from qres_transport_libp2p.plugin import Libp2p

__all__ = ["Libp2p"]
