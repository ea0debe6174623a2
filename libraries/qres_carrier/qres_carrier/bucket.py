"""A token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs


@attrs.define(eq=False)
class TokenBucket:
    """Lets ``rate`` things a second pass on average, and ``burst`` at once."""

    rate: float  # tokens a second
    burst: float  # most tokens it holds; full at first
    clock: Callable[[], float] = time.monotonic  # seconds
    _tokens: float = attrs.field(init=False)
    _then: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tokens = self.burst
        self._then = self.clock()

    def wait(self, tokens: float = 1.0) -> float:
        """Take some tokens that are there or will be; returns the seconds until they are."""
        self._refill()
        self._tokens -= tokens
        return max(0.0, -self._tokens / self.rate)

    def take(self, tokens: float = 1.0) -> bool:
        """Take some tokens if all of them are there."""
        self._refill()
        if self._tokens < tokens:
            return False
        self._tokens -= tokens
        return True

    def _refill(self) -> None:
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._then) * self.rate)
        self._then = now
