"""Parameters that all nodes of a session share, and the choice of degree and threshold.

A node's two secrets are shared among ``k + 1`` holders, its ``k`` neighbours and itself; ``t`` of
them open one. The graph is drawn at random, so how many of a node's holders are corrupt, or gone,
is hypergeometric. ``choose`` takes the smallest ``k`` for which, over all ``n`` nodes together,

- no honest node is exposed, except with probability ``2**-40``: with ``c`` corrupt holders, ``t``
  exceeds ``(k + 1 + c) / 2``, so that two halves of the honest holders that were told different
  survivor sets cannot open both secrets of a node. That counts one draw of the graph, and is a
  second line: two sets that were stated have an honest node in common, whatever the graph is;
- no node has ``t`` corrupt holders, who could open both of its secrets among themselves, except
  with probability ``2**-41`` for ``2**80`` draws of the graph together: whoever picks a key for a
  known model picks a graph;
- the honest survivors of a sum are one connected part, whoever decides who is left out: a set that
  :func:`corrupt_in_windows` nodes could cut is refused (see ``Survivors``). Chance makes such a set
  with a probability below ``2**-20``;
- every secret can be opened, except with probability ``2**-20``;
- a dealer that ``acks`` holders found to deal rightly has ``t`` honest ones among them: on the
  complete graph always, on a sparse one for half of the dealers. On the complete graph it has
  ``dropped`` more, who may fail after that, as far as so many honest nodes ack when others are away
  and no liar does. That is no matter of privacy. A corrupt dealer without them can have the round
  end in nothing, and open the sum itself;
- the holders that are there are enough for ``acks``, on a sparse graph except with probability
  ``2**-13`` for each node. A node without them is not listed, and its neighbours, which hold almost
  the same nodes' shares, then lack its ack. Where such a stretch is not rare, the whole circle
  melts from there: at ``2**-5``, in a fifth to two thirds of the rounds with all ``dropped`` away.

Who is there and says nothing is as good as away: ``dropped`` counts silent liars too.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova, "Secure Single-Server Aggregation with
(Poly)Logarithmic Overhead", CCS 2020, sections 3 and 4.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import count
from typing import Final

import attrs
import numpy as np

from qres_core.errors import CompatibilityError, ConfigError

SECURITY_BITS: Final = 40
CORRECTNESS_BITS: Final = 20
DRAW_BITS: Final = 80
"""How many draws of the circle somebody may try out, as a power of two. The circle follows from the
model and the members. Who chooses its key when the model is known, chooses among circles."""
LIAR_BITS: Final = 1
"""On a sparse graph: how rarely a dealer has more corrupt holders than the number of acks is made
for."""
LIST_BITS: Final = 13
"""And how rarely a node has fewer holders that are there."""
HONEST_LEAST: Final = 2
"""Fewest inputs of honest nodes in a sum that is opened, whoever is corrupt."""
COMPLETE_UP_TO: Final = 64
"""Most nodes for which everybody is everybody's neighbour."""
MAX_NODES: Final = 65_535
PRGS: Final = ("aes256ctr", "chacha20")
_ROUNDING: Final = 1 + 1e-9


@attrs.frozen
class GraphParameters:
    """Degree and threshold of the share graph."""

    k: int  # neighbours of every node; even, or ``n - 1`` for the complete graph
    t: int  # holders out of ``k + 1`` that open a secret
    acks: int  # holders out of ``k + 1`` that must have found their shares of a dealer to fit


def tail_above(population: int, marked: int, draws: int, limit: int) -> tuple[int, int]:
    """The exact probability of more than ``limit`` marked ones among ``draws`` without replacement.

    Args:
        population: size of the whole, ``>= draws``.
        marked: how many of them are marked.
        draws: how many are drawn.
        limit: the count that is exceeded; any integer.

    Returns:
        numerator and denominator.

    Complexity: O(draws) products of integers of O(draws log population) bits.
    """
    low, high = max(0, draws - (population - marked), limit + 1), min(marked, draws)
    whole = math.comb(population, draws)
    if low > high:
        return 0, whole
    term = math.comb(marked, low) * math.comb(population - marked, draws - low)
    total = term
    for i in range(low, high):
        # The next term from this one; the quotient is exact, being a product of two binomials.
        term = (
            term * (marked - i) * (draws - i) // ((i + 1) * (population - marked - draws + i + 1))
        )
        total += term
    return total, whole


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _quantile(population: int, marked: int, draws: int, log2_limit: float) -> int:
    """Smallest ``c`` with P[more than ``c`` marked] at most ``2**log2_limit``, in floats."""
    low, high = max(0, draws - (population - marked)), min(marked, draws)
    limit = 2.0**log2_limit
    log_whole = _log_comb(population, draws)
    term = math.exp(
        _log_comb(marked, high) + _log_comb(population - marked, draws - high) - log_whole
    )
    tail = 0.0
    for i in range(high, low - 1, -1):
        if term == 0.0:  # underflow far out in the tail: begin again nearer to the middle
            term = math.exp(
                _log_comb(marked, i) + _log_comb(population - marked, draws - i) - log_whole
            )
        tail += term
        if tail > limit:
            return i
        if i > low:
            term *= i * (population - marked - draws + i) / ((marked - i + 1) * (draws - i + 1))
    return low - 1


def at_most(probability: tuple[int, int], log2_limit: int, union: int) -> bool:
    """True if ``probability * union <= 2**log2_limit``, exactly."""
    numerator, denominator = probability
    return (numerator * union) << -log2_limit <= denominator


def _connected(n: int, k: int, gone: int) -> bool:
    """True if a circulant of degree ``k`` holds together when ``gone`` random nodes leave it.

    It falls apart only where ``k/2`` in a row are gone on both sides of a stretch; the union bound
    over the pairs of places must be below ``2**-(SECURITY_BITS + 1)``.
    """
    if k > gone:
        return True
    log = math.log(n) + math.log(max(1, n - k - 1)) - math.log(2) + math.lgamma(gone + 1)
    log += math.lgamma(n - k + 1) - math.lgamma(n + 1) - math.lgamma(gone - k + 1)
    return log * _ROUNDING < -(SECURITY_BITS + 1) * math.log(2)


def _pairs(n: int) -> float:
    """Pairs of places on the circle, as a power of two."""
    return math.log2(n) + math.log2(max(1, n - 1)) - 1


@lru_cache(maxsize=256)
def corrupt_in_windows(n: int, k: int, corrupt: int) -> int:
    """Most corrupt nodes in two windows of ``k/2`` places each, wherever they are on the circle.

    Except with probability ``2**-41`` for all pairs and for ``2**80`` draws of the circle together.
    Cached.
    """
    bits = SECURITY_BITS + 1 + DRAW_BITS + _pairs(n)
    return min(corrupt, _quantile(n, corrupt, min(k, n), -bits))


def _threshold(k: int, corrupt_holders: int) -> int:
    return max(2, (k + 1 + corrupt_holders) // 2 + 1)


def _sparse(n: int, k: int, corrupt: int, dropped: int) -> GraphParameters | None:
    gone = _quantile(n, dropped, k, -CORRECTNESS_BITS - _pairs(n))
    together = _connected(n, k, corrupt + dropped)
    if not together or k - gone <= corrupt_in_windows(n, k, corrupt):
        return None
    per_node = math.log2(n)
    held = _quantile(n - 1, corrupt, k, -(SECURITY_BITS + 1) - per_node)
    threshold = _threshold(k, held)
    if k - _quantile(n - 1, dropped, k, -CORRECTNESS_BITS - per_node) < threshold:
        return None
    exposed = tail_above(n - 1, corrupt, k, 2 * threshold - k - 2)
    acks = threshold + _quantile(n - 1, corrupt, k, -LIAR_BITS)
    if k + 1 - _quantile(n - 1, dropped, k, -LIST_BITS) < acks:
        return None
    read = tail_above(n - 1, corrupt, k, threshold - 1)
    if not at_most(read, -(SECURITY_BITS + 1 + DRAW_BITS), n):
        return None
    lost = tail_above(n - 1, dropped, k, k - threshold)
    if not at_most(exposed, -(SECURITY_BITS + 1), n) or not at_most(lost, -CORRECTNESS_BITS, n):
        return None  # pragma: no cover - floats and integers differ in the last digit
    return GraphParameters(k, threshold, acks)


def _complete(n: int, corrupt: int, dropped: int) -> GraphParameters | None:
    threshold = _threshold(n - 1, corrupt)
    least = threshold + corrupt
    if n - dropped < least:
        return None
    if not corrupt:  # whoever did not ack in time holds shares all the same
        return GraphParameters(n - 1, threshold, threshold)
    # No more than all honest nodes give when others are away and no liar gives any.
    acks = max(least, min(least + dropped, n - dropped - corrupt))
    return GraphParameters(n - 1, threshold, acks)


@lru_cache(maxsize=256)
def choose(
    n: int, corrupt: int, dropped: int, *, complete_up_to: int = COMPLETE_UP_TO
) -> GraphParameters:
    """Smallest degree, and its threshold, that are safe for a swarm.

    Args:
        n: nodes of the roster, 3..65535.
        corrupt: most nodes that collude against privacy, with each other and with whoever sums.
        dropped: most nodes that fail in the course of one round, or say nothing.
        complete_up_to: most nodes for which the complete graph is taken without a search. There
            nothing is left to chance.

    Returns:
        the plan. Cached.

    Raises:
        ConfigError: QRES-E105, a number out of range.
        CompatibilityError: QRES-E314, no degree is safe: roughly where
            ``dropped >= (n - 3 * corrupt) / 2``.

    Complexity: O(n**2) float operations at worst; 0.1 s for n = 1000.

    Example:
        >>> choose(100, 10, 10, complete_up_to=0)
        GraphParameters(k=34, t=23, acks=26)
    """
    if not 3 <= n <= MAX_NODES or not 0 <= corrupt < n or not 0 <= dropped < n:
        what = f"{n} nodes, {corrupt} corrupt, {dropped} dropped"
        raise ConfigError.of(
            "QRES-E105", "secagg", what, f"3 to {MAX_NODES} nodes, fewer of others"
        )
    # Beside the quorum of survivor statements, those of the acks that may be lies.
    need = _threshold(n - 1, corrupt) + corrupt
    plan = None
    if n > complete_up_to and n - dropped >= need - corrupt:
        found = (_sparse(n, k, corrupt, dropped) for k in range(2, n - 1, 2))
        plan = next((candidate for candidate in found if candidate is not None), None)
    plan = plan or _complete(n, corrupt, dropped)
    if plan is None:
        enough = next(
            more for more in count(n) if more - dropped >= _threshold(more - 1, corrupt) + corrupt
        )
        # A session always plans for one at least.
        fewer = f"at most {n - need} dropouts, for " if n > need else ""
        raise CompatibilityError.of(
            "QRES-E314",
            "secagg",
            f"of {n} nodes with {corrupt} corrupt, {need} must stay to deal and open, "
            f"and {dropped} may drop out",
            f"plan for {fewer}fewer corrupt nodes, or for {enough} nodes",
        )
    return plan


@attrs.frozen
class Parameters:
    """All numbers of a session; every node computes them from the swarm's configuration.

    Raises:
        ConfigError: QRES-E105, a number out of range.
        CompatibilityError: QRES-E313, the sum may wrap; QRES-E314, threshold or ``min_survivors``
            not safe.
    """

    dimension: int  # coordinates of a vector
    k: int  # degree of the share graph, see :func:`choose`
    t: int  # threshold of the share graph
    acks: int  # holders that must have found a dealer's shares to fit before it is listed
    corrupt: int  # most corrupt nodes planned for
    # fewest inputs in a sum that is opened, per group; at least 3, and two more than are corrupt:
    # these may all be in one group, and each knows its own input
    min_survivors: int
    bound: int  # greatest absolute value of a coordinate of an input, raw units of the grid
    summands: int  # most inputs in one sum
    noise: int = 0  # headroom for noise on the sum (six standard deviations), raw units
    group_size: int = 0  # members of a group at least; 0 for one group
    ring_bits: int = 32  # 32 or 64
    prg: str = "aes256ctr"  # ``"aes256ctr"`` or ``"chacha20"``
    # anything else the nodes must agree on, as canonical bytes: it enters the session id
    extra: bytes = b""

    def __attrs_post_init__(self) -> None:
        if self.ring_bits not in (32, 64) or self.prg not in PRGS:
            what = f"ring of {self.ring_bits} bits, generator {self.prg!r}"
            raise ConfigError.of("QRES-E105", "secagg", what, f"32 or 64; one of {PRGS}")
        numbers = (self.dimension, self.k, self.t, self.bound, self.summands)
        if min(numbers) < 1 or min(self.corrupt, self.noise, self.group_size) < 0:
            raise ConfigError.of("QRES-E105", "secagg", "a number of the session is out of range")
        if not 2 <= self.t <= self.k + 1 or 2 * self.t <= self.k + 1:
            what = f"threshold {self.t} of {self.k + 1} holders"
            raise CompatibilityError.of(
                "QRES-E314", "secagg", what, "more than half, not above all"
            )
        if not self.t <= self.acks <= self.k + 1:
            what = f"{self.acks} acks of {self.k + 1} holders, and {self.t} open a secret"
            raise CompatibilityError.of("QRES-E314", "secagg", what, "at least as many as open")
        if self.min_survivors < 3:
            raise CompatibilityError.of(
                "QRES-E314",
                "secagg",
                f"sums of {self.min_survivors} inputs",
                "of two inputs, each node learns the other's: at least 3",
            )
        if self.min_survivors < self.corrupt + HONEST_LEAST:
            what = (
                f"sums of {self.min_survivors} inputs, of which {self.corrupt} may be corrupt, "
                f"hold fewer than {HONEST_LEAST} of honest nodes"
            )
            fix = f"at least {self.corrupt + HONEST_LEAST}"
            raise CompatibilityError.of("QRES-E314", "secagg", what, fix)
        half = 1 << (self.ring_bits - 1)
        need = self.summands * self.bound + self.noise
        if need >= half:
            raise CompatibilityError.of(
                "QRES-E313",
                "secagg",
                f"{self.summands} inputs up to {self.bound} and noise up to {self.noise} make "
                f"{need}, the ring of {self.ring_bits} bits holds less than {half}",
                f"a bound of at most {max(0, (half - 1 - self.noise) // self.summands)}, smaller "
                "groups, or the ring of 64 bits",
            )

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """Little-endian unsigned dtype of the ring."""
        return np.dtype("<u4") if self.ring_bits == 32 else np.dtype("<u8")

    def quorum(self, nodes: int) -> int:
        """Survivor statements needed in a roster of ``nodes``.

        Counted over the roster and not over a list, which a leader makes: two sets of that many
        speakers have an honest node in common, which states one set, whatever list it was shown.
        """
        return (nodes + self.corrupt) // 2 + 1
