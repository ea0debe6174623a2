"""The arrays that the compiled engines and those in plain Python take and give."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Words: TypeAlias = NDArray[np.uint64]
Values: TypeAlias = NDArray[np.int64]
Bits: TypeAlias = NDArray[np.uint8]
