"""Differential privacy for QRES: exact noise and clipping on the fixed-point grid.

===============================  =================================================================
where                            what
===============================  =================================================================
``plugin``                       the options and the hooks
``ranges``, ``combination``      which values an option takes, and which options go together
``terms``, ``modes``             what the options come to; modes, neighbours, a round's mechanism
``fitting``, ``grid``            whether a swarm's numbers and its grid allow it
``releases``                     what leaves a node and what is merged, one class for each way
``clip``, ``discrete_gaussian``  clipping and noise in integers
``randomness``                   keys and the stream of a key
``correlated``                   noise that takes back some of that of earlier rounds
``stream``                       … the prices of its rows
``accounting``                   what releases cost, alone and together
``ledger``, ``keeping``          what a node released and spent, on disk; where that is
``plan``, ``cli``                from a budget to noise, before there is a swarm; ``qres dp``
===============================  =================================================================
"""

from __future__ import annotations

from qres_dp.plugin import Dp

__all__ = ["Dp"]
