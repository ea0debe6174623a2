"""Replay protection for QRES: sequence windows, clock bounds, and a store that survives crashes."""

from __future__ import annotations

from qres_replay.plugin import Replay

__all__ = ["Replay"]
