"""Reputation for QRES: scores, bans and an outlier watch, from blameable facts alone."""

from __future__ import annotations

from qres_reputation.plugin import Reputation

__all__ = ["Reputation"]
