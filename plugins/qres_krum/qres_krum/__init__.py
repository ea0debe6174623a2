"""Krum for QRES."""
