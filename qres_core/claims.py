"""Claims of plugins that do more than aggregate, and what their ``passes`` is given.

A rule claims with ``qres_core.Claims``, ``Needs`` and ``Reads`` alone.
"""

from qres_core.contract.claims import Extent, Hides, Privatizes, Verifies, Wraps, most_colluders

__all__ = [
    "Extent",
    "Hides",
    "Privatizes",
    "Verifies",
    "Wraps",
    "most_colluders",
]
