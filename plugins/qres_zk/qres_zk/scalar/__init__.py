"""Linear algebra modulo the group's order, and random projections of committed vectors.

What norm/v2 computes with scalars: the projections ``q = R u``, the weights ``a = gamma^T R`` of
a random combination of them, and the folding of rows. ``R`` has ``k`` rows of bits for every
coordinate; it is expanded from a seed by BLAKE3's output of any length and never stored. Both
engines of :mod:`qres_zk.group` have all of it, with the same results. **Nothing here is
constant-time.**

A vector of ``d`` coordinates is laid out as ``b`` rows of ``m`` columns. The bits of row ``c`` are
``BLAKE3(seed || c as four bytes little-endian)``, ``k / 8`` bytes a column: bit ``t % 8`` (the
lowest first) of byte ``t // 8`` of column ``j`` is ``R[t, c * m + j]``.

Values are int32, or int64 between ``-2**40`` and ``2**40``.
"""

from __future__ import annotations

from qres_zk.scalar.folding import Folding
from qres_zk.scalar.projection import folded_weights, project, weights
from qres_zk.scalar.vectors import combine_rows, dot, multiply_add

__all__ = [
    "Folding",
    "combine_rows",
    "dot",
    "folded_weights",
    "multiply_add",
    "project",
    "weights",
]
