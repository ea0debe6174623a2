"""Contributions of a round: taken in, checked, put into sets, and merged."""
