"""Ray for QRES: the nodes of a simulation train on a Ray cluster.

Ray is imported with the first worker: a configuration must be readable where it is not installed.
"""

from __future__ import annotations

from qres_ray.workers import RayWorker, RayWorkers

__all__ = ["RayWorker", "RayWorkers"]
