"""Robust statistics for QRES: rules and wrappers that merge updates although some of them lie.

Every rule is a function on stacked vectors and a plugin class of the same name. Functions compute
exactly on int32 rows and in floats on float rows; plugins are the functions, held to their
preconditions, in a swarm.
"""

from __future__ import annotations

from qres_robust_stats.arc import Arc, arc
from qres_robust_stats.bucketing import Bucketing, bucketing
from qres_robust_stats.caf import Caf, caf
from qres_robust_stats.centred_clipping import CentredClipping, centred_clipping
from qres_robust_stats.clipping import Clipping, clip
from qres_robust_stats.dnc import Dnc, dnc
from qres_robust_stats.geometric_median import GeometricMedian, geometric_median
from qres_robust_stats.mda import Mda, mda
from qres_robust_stats.meamed import Meamed, meamed
from qres_robust_stats.median import Median, median
from qres_robust_stats.monna import Monna, monna
from qres_robust_stats.nnm import Nnm, nnm
from qres_robust_stats.trimmed_mean import TrimmedMean, trimmed_mean

__all__ = [
    "Arc",
    "Bucketing",
    "Caf",
    "CentredClipping",
    "Clipping",
    "Dnc",
    "GeometricMedian",
    "Mda",
    "Meamed",
    "Median",
    "Monna",
    "Nnm",
    "TrimmedMean",
    "arc",
    "bucketing",
    "caf",
    "centred_clipping",
    "clip",
    "dnc",
    "geometric_median",
    "mda",
    "meamed",
    "median",
    "monna",
    "nnm",
    "trimmed_mean",
]
