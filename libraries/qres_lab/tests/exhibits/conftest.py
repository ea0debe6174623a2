"""What tests of exhibits share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from qres_dp_audit.course import same_randomness


@pytest.fixture
def same_noise() -> Iterator[None]:
    """What a test makes of noise is no chance: it is the same each time."""
    with same_randomness(1):
        yield
