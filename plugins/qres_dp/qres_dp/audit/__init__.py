"""An audit that would catch us: three checks of the plugin, and faults each of them has to find.

The checks drive the plugin by its hooks, as a node does, in every mode:

- :func:`.white_box.examine`: with known updates, what is left after subtracting them is noise. Its
  size, block by block, its mean and its independence between rounds are compared with the claim.
- :func:`.exact.examine`: without noise, no update moves a sum by more than the clipping bound. In
  integers: there is no tolerance.
- :func:`.black_box.examine`: from released sums alone, a statistical lower bound of the privacy
  loss is compared with the claim.

:mod:`.faults` puts known faults into the plugin. An audit that does not find them is worth nothing,
so the command tries them each time. A passed audit is no proof of privacy; it is a lower bound.
"""

from __future__ import annotations

from qres_dp.audit.finding import Finding
from qres_dp.audit.run import FAULTS, Audit, audit, controls

__all__ = ["FAULTS", "Audit", "Finding", "audit", "controls"]
