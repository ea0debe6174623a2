"""The range of every option that is a number: one table, for the plugin and for plans."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from qres_core import fixed, options

CLIP: Final = (2.0**-40, 2.0**40)
DELTA: Final = (1e-30, 1e-3)
EPSILON: Final = (1e-6, 1e6)
ROUNDS: Final = (1, 10**6)
NOISE_MULTIPLIER: Final = (1e-3, 1e6)
HONEST: Final = (1, 2**16)
RECORDS: Final = (1, 2**24)
BAND: Final = (2, 64)
SEPARATION: Final = (1, 10**6)

NODES: Final = (1, 2**16)
"""Of a swarm that a plan is for; likewise the coordinates of its model and ``swarm.scale``."""
COORDINATES: Final = (1, 2**31 - 1)
SCALE: Final = (-fixed.MAX_SCALE, fixed.MAX_SCALE)

FOLDER: Final = options.Option(
    "an absolute path, or empty",
    lambda value: type(value) is str and (not value or Path(value).is_absolute()),
)
"""A folder that is the same one whatever the working directory."""
