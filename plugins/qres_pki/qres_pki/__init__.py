"""Membership for QRES: who may take part, by whitelist or by a swarm CA of X.509 certificates."""

from __future__ import annotations

from qres_pki.plugin import Pki

__all__ = ["Pki"]
