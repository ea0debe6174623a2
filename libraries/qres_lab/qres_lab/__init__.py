"""The laboratory: what serves study, and what authors of plugins test with.

===================  ===============================================================================
where                what
===================  ===============================================================================
``attacks``          attacks beyond those of the core; attackers in processes of their own
``gallery``          what is played against what, and the page of it
``exhibits``         attacks on the protocols of plugins
``testing``          conformance suites, builders, adversaries, certificates of rules
``vectorised``       the engine for thousands of nodes
``shadow``           a round as an attacker may try it
``box``              a swarm of real nodes on this machine
``demo``, ``report``  the demonstration and its page
``commands``         ``qres attack``, ``certify``, ``demo``, ``new-plugin`` and ``swarm``
===================  ===============================================================================

It is the one distribution that imports inner modules of ``qres_core`` and of plugins, so its
version goes with theirs.
"""

from __future__ import annotations

from qres_lab.exhibit import (
    AttackFamily,
    AttackOutcome,
    GalleryEntry,
    GalleryOutcome,
    GallerySetting,
)

__all__ = [
    "AttackFamily",
    "AttackOutcome",
    "GalleryEntry",
    "GalleryOutcome",
    "GallerySetting",
]
