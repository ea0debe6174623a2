"""Token buckets."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

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

    def holds(self, tokens: float) -> bool:
        """True if more than some tokens are there now; none is taken."""
        self._refill()
        return self._tokens > tokens

    @property
    def full(self) -> bool:
        """True if it is worth as much as a new bucket."""
        self._refill()
        return self._tokens >= self.burst

    def _refill(self) -> None:
        now = self.clock()
        self._tokens = min(self.burst, self._tokens + (now - self._then) * self.rate)
        self._then = now


@attrs.define(eq=False)
class SenderBuckets:
    """A bucket for each sender. It outlives the sender's streams and connections.

    Buckets that are full again are let go, so there are few.
    """

    make: Callable[[], TokenBucket]  # makes the bucket of a sender
    _kept: dict[Hashable, TokenBucket] = attrs.field(
        factory=dict[Hashable, TokenBucket], init=False
    )

    def of(self, sender: Hashable) -> TokenBucket:
        """The bucket of a sender. Ask again each time, as it may have been let go."""
        found = self._kept.get(sender)
        if found is None:
            self._kept = {who: bucket for who, bucket in self._kept.items() if not bucket.full}
            found = self._kept[sender] = self.make()
        return found

    def __len__(self) -> int:
        """Number of them."""
        return len(self._kept)
