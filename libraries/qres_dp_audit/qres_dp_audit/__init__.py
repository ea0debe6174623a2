"""An audit that would catch us: random settings, compared with a short reference.

The settings, the nodes' updates, and what happens to the nodes are drawn from a seed. The plugin is
driven by its hooks, as the kernel does, and gets the random bytes of the same seed:

- :func:`.plan.lacking`: what the plan prints is what the promise needs, by the audit's formulas;
- :meth:`.course.Course.play`: in a random course of rounds, attempts, void heights, restarts and
  kills, all that leaves, is charged and is refused is what :mod:`.reference` makes of the same
  bytes; an older ledger that is put back is refused;
- :func:`.noise.examine`: noise of tens of millions of coordinates has the residues and tails of
  the discrete Gaussian.

:mod:`.faults` has known faults that it has to find. A passed audit is no proof: it finds what these
settings and the reference can show, and takes the operating system's random bytes for random.
"""

from __future__ import annotations

from qres_dp_audit.faults import FAULTS
from qres_dp_audit.finding import Finding
from qres_dp_audit.run import Audit, audit, controls

__all__ = ["FAULTS", "Audit", "Finding", "audit", "controls"]
