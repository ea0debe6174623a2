"""Zero-knowledge proofs for QRES: norms of committed updates, and sums of commitments."""

from __future__ import annotations

from qres_zk.plugin import Zk

__all__ = ["Zk"]
