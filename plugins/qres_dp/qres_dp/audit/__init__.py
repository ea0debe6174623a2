"""An audit that would catch us: checks of the installed plugin, and faults they have to find.

What is promised is read from the plan that ``qres dp plan`` prints, and held to formulas of the
audit's own (:mod:`.oracle`). Then the plugin is driven by its hooks, as the kernel does, in every
setting of :mod:`.claim`:

- :func:`.books.plan`: the printed noise and epsilon are what the promise needs;
- :func:`.exact.examine`: a unit moves what leaves by no more than that, in integers;
- :func:`.noise.examine`: what is left of a release is noise of the printed size, and independent;
- :func:`.books.ledger`: every release is charged what it costs, and none is over the budget;
- :func:`.books.sums`: sums of too few nodes are refused;
- :func:`.black_box.examine`: from released sums alone, a lower bound of the privacy loss;
- :func:`.keys.examine`: plugins that begin anew, also in new processes, make other noise.

:mod:`.faults` has known faults. A passed audit is no proof of privacy; it is a lower bound.
"""

from __future__ import annotations

from qres_dp.audit.finding import Finding
from qres_dp.audit.run import FAULTS, Audit, audit, controls

__all__ = ["FAULTS", "Audit", "Finding", "audit", "controls"]
