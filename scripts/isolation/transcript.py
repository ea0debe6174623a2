"""What an adversary saw of secure aggregation, and which masks it can take off.

Every honest node ``i`` sends in session ``s`` the masked input

    y[s, i]  =  x[i]  +  b[s, i]  +  sum over its partners j of  ±m[s, i, j]

with its own mask ``b`` and a mask ``m`` for each partner, which the partner subtracts. All of it is
broadcast, so an adversary has every ``y``. The masks are keystreams: to whoever lacks a key, its
stream is uniform and independent of everything else (the generator's assumption). A key is either
known or unknown, and nothing lies between:

- the own mask follows from the node's seed, a pair's mask from the mask key of either of the two;
- a secret is known where ``threshold`` of its shares are, and with fewer each of its values is as
  likely as every other (Shamir: the other coefficients are uniform);
- a share is known where its holder is corrupt, or where somebody opened it;
- the secrets of corrupt nodes are known.

The trainer is deterministic: as long as the model stays, a node sends the same ``x`` in every
session. Any other trainer gives an adversary less. An input that is weighted in public is a known
multiple of itself, so a weight changes nothing.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Collection, Hashable, Iterator

import attrs

Node = Hashable
Session = Hashable


class Kind(enum.Enum):
    """Which of a node's two secrets."""

    SEED = 0
    MASK_KEY = 1


Secret = tuple[Session, Node, Kind]


@attrs.frozen
class Row:
    """A masked input that was sent."""

    session: Session
    node: Node  # whose
    input: Hashable  # what is in it: the same where the node sent the same
    key: bytes  # of its own mask
    pairs: tuple[tuple[Node, bytes, int], ...]  # of each partner: who, the pair's key, the sign


@attrs.frozen
class Equation:
    """A row as an adversary has it: one input, and the masks on it that it cannot take off."""

    input: Hashable
    masks: tuple[tuple[bytes, int], ...]


@attrs.define
class Transcript:
    """Everything that was sent, and by whom shares were held and opened."""

    rows: list[Row] = attrs.field(factory=list[Row])
    thresholds: dict[Session, int] = attrs.field(factory=dict[Session, int])
    # of each secret: who holds a share, and whose shares were opened to everybody
    held: dict[Secret, set[Node]] = attrs.field(factory=lambda: defaultdict(set))
    opened: dict[Secret, set[Node]] = attrs.field(factory=lambda: defaultdict(set))

    def knows(self, corrupt: Collection[Node], secret: Secret) -> bool:
        """Whether those nodes know a secret."""
        session, node, _kind = secret
        if node in corrupt:
            return True
        of = self.opened[secret] | self.held[secret].intersection(corrupt)
        return len(of) >= self.thresholds[session]

    def equations(self, corrupt: Collection[Node]) -> Iterator[Equation]:
        """What nodes that collude have of the inputs of all others."""
        # A key that comes up in several rows is one unknown, and one known owner gives it away.
        known: set[bytes] = set()
        honest = [row for row in self.rows if row.node not in corrupt]
        for row in self.rows:
            if self.knows(corrupt, (row.session, row.node, Kind.SEED)):
                known.add(row.key)
            mine = self.knows(corrupt, (row.session, row.node, Kind.MASK_KEY))
            for partner, key, _sign in row.pairs:
                if mine or self.knows(corrupt, (row.session, partner, Kind.MASK_KEY)):
                    known.add(key)
        for row in honest:
            masks = ((row.key, 1), *((key, sign) for _partner, key, sign in row.pairs))
            yield Equation(row.input, tuple(mask for mask in masks if mask[0] not in known))
