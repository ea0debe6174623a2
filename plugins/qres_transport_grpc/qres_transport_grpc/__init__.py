"""gRPC for QRES: frames, requests and blobs over hubs that nobody has to trust."""

from __future__ import annotations

from qres_transport_grpc.plugin import Grpc

__all__ = ["Grpc"]
