"""byzpy on lists of torch tensors."""

from __future__ import annotations

import math
from typing import Any

import torch
from byzpy.aggregators.coordinate_wise.mean_of_medians import MeanOfMedians
from byzpy.aggregators.coordinate_wise.median import CoordinateWiseMedian
from byzpy.aggregators.coordinate_wise.trimmed_mean import CoordinateWiseTrimmedMean
from byzpy.aggregators.geometric_wise.geometric_median import GeometricMedian
from byzpy.aggregators.geometric_wise.krum import Krum, MultiKrum
from byzpy.aggregators.geometric_wise.minimum_diameter_average import MinimumDiameterAveraging
from byzpy.aggregators.norm_wise.center_clipping import CenteredClipping
from byzpy.pre_aggregators.nnm import NearestNeighborMixing

from peers import Rows, Rules
from peers.byzfl import MOST_SUBSETS


def prepare(rows: Rows, f: int) -> Rules:
    """The rules on a list of tensors that share the rows' memory."""
    torch.set_num_threads(1)
    n = len(rows)
    vectors = list(torch.from_numpy(rows))
    found: dict[str, Any] = {
        "krum": lambda: Krum(f=f).aggregate(vectors),
        "multi_krum": lambda: MultiKrum(f=f, q=n - f).aggregate(vectors),
        "median": lambda: CoordinateWiseMedian().aggregate(vectors),
        "trimmed_mean": lambda: CoordinateWiseTrimmedMean(f=f).aggregate(vectors),
        "geometric_median": lambda: GeometricMedian(max_iter=3).aggregate(vectors),
        "centred_clipping": lambda: CenteredClipping(c_tau=100.0, M=1).aggregate(vectors),
        "nnm_trimmed_mean": lambda: CoordinateWiseTrimmedMean(f=f).aggregate(
            NearestNeighborMixing(f=f).pre_aggregate(vectors)
        ),
        "meamed": lambda: MeanOfMedians(f=f).aggregate(vectors),
    }
    if math.comb(n, f) <= MOST_SUBSETS:
        found["mda"] = lambda: MinimumDiameterAveraging(f=f).aggregate(vectors)
    return found
