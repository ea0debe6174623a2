"""Lets the tests of this folder import the swarm they share."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))  # test files cannot import their neighbours
