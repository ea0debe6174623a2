"""Ed25519 signatures for QRES: every message proves who made it."""

from __future__ import annotations

from qres_ed25519.plugin import Ed25519

__all__ = ["Ed25519"]
