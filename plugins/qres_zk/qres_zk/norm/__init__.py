"""norm/v2, both sides: a committed vector is within a ball, and in a half-space if one is stated.

The protocol, its parameters and the argument for its soundness are written down in
``docs/reference/norm-v2.md``. In short: the verifier's challenge is a random matrix ``R``
of zeros and ones; the prover commits to the integers ``q = R u`` and ``s = sum u`` and shows

1. that all committed values are small integers, by random sums of them under one-time masks;
2. that ``q`` and ``s`` belong to the committed ``u``, by one random combination and by folding the
   rows of ``u`` with challenges until one is left;
3. that ``sum (2 q_t - s)**2``, the squares of random signed sums, plus four squares is the budget.

**Experimental: a composition of standard parts that nobody outside the project has reviewed, and
not constant-time but for the multiplications by blinds.**
"""

from __future__ import annotations

from qres_zk.norm.proving import prove
from qres_zk.norm.verifying import CombinedEquations, holds, prepare, verify

__all__ = ["CombinedEquations", "holds", "prepare", "prove", "verify"]
