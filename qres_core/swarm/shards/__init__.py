"""Sharded rounds: committees merge ranges of coordinates."""
