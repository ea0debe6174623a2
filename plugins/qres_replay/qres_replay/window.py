"""Memory of one sender: the highest sequence number and a bitmap below it."""

from __future__ import annotations

from typing import Final

import attrs

from qres_core import Fault, NodeId

TOO_OLD: Final = "sequence-too-old"


@attrs.define(eq=False)
class Window:
    """The anti-replay window of RFC 4303 section 3.4.3, here of ``size`` sequence numbers.

    The numbers ``high - size + 1 .. high`` are each known to be seen or not; those above are new;
    those below are refused, because nothing is known of them any more.

    Attributes:
        size: how many numbers the bitmap covers, 1 or more.
        high: the highest number seen, -1 before the first.
        seen: bit ``i`` is set if ``high - i`` was seen; fewer than ``2**size``.

    Complexity: O(size / 64) for a number above ``high``, else the same to set one bit; the numbers
    of a gap cost nothing.

    Source:
        S. Kent, "IP Encapsulating Security Payload (ESP)", RFC 4303, section 3.4.3;
        X. Zhang, T. Tsou, "IPsec Anti-Replay Algorithm without Bit Shifting", RFC 6479, for what
        large windows are good for. Python's integers shift fast enough to do without its ring.

    Example:
        >>> window = Window(4)
        >>> window.high, window.seen = window.after(7)
        >>> [str(window.refusal(n)) for n in (8, 7, 6, 4, 3)]
        ['', 'replayed', '', '', 'sequence-too-old']
    """

    size: int
    high: int = -1
    seen: int = 0

    def refusal(self, sequence: int) -> str:
        """Reason why a number is refused; empty if it is new."""
        behind = self.high - sequence
        if behind < 0:
            return ""
        if behind >= self.size:
            return TOO_OLD
        return Fault.REPLAYED if self.seen >> behind & 1 else ""

    def after(self, sequence: int) -> tuple[int, int]:
        """``high`` and ``seen`` once a new number is seen. Changes nothing."""
        ahead = sequence - self.high
        if ahead <= 0:
            return self.high, self.seen | 1 << -ahead
        if ahead >= self.size:
            return sequence, 1
        return sequence, (self.seen << ahead | 1) & ((1 << self.size) - 1)

    def resized(self, size: int) -> Window:
        """The same memory in a window of another size.

        What the smaller one had forgotten counts as seen in the larger one.
        """
        seen = self.seen
        if size > self.size and self.high >= 0:
            seen |= (1 << size) - (1 << self.size)
        return Window(size, self.high, seen & ((1 << size) - 1))


@attrs.define(eq=False)
class Sender:
    """Memory of one node of the roster."""

    node: NodeId  # its identity, 32 bytes
    window: Window  # its sequence numbers
    # no message of it with a later time was accepted, milliseconds; kept only for a sender whose
    # clock is ahead, the others share one
    ceiling: int = -1
    # messages up to this time may have been accepted before a power loss, milliseconds
    floor: int = -1
