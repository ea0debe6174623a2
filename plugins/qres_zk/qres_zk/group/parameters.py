"""The numbers of edwards25519 and ristretto255, as Python integers (RFC 9496, section 4.1)."""

from __future__ import annotations

from typing import Final

PRIME: Final = 2**255 - 19
"""Order of the field."""

ORDER: Final = 2**252 + 27742317777372353535851937790883648493
"""Order of the group, a prime."""

D: Final = -121665 * pow(121666, -1, PRIME) % PRIME
"""Curve: ``-x² + y² = 1 + D x² y²``."""

SQRT_M1: Final = pow(2, (PRIME - 1) // 4, PRIME)
"""The non-negative square root of -1."""

SQRT_AD_MINUS_ONE: Final = (
    25063068953384623474111414158702152701244531502492656460079210482610430750235
)
INVSQRT_A_MINUS_D: Final = (
    54469307008909316920995813868745141605393597292927456921205312896311721017578
)
ONE_MINUS_D_SQ: Final = (1 - D * D) % PRIME
D_MINUS_ONE_SQ: Final = (D - 1) ** 2 % PRIME

GENERATOR: Final = (
    15112221349535400772501151409588531511454012693041857206046113283949847762202,
    46316835694926478169428394003475163141307993866256225615783033603165251855960,
)
"""Affine coordinates of the generator, that of Ed25519."""
