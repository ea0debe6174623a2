"""Attacks on the protocol, played between its roles in one process, for the attack gallery."""
