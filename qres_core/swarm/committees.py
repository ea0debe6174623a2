"""Who checks whose proofs, where not everybody checks all of them, and what the checkers say.

The proof of a contribution is checked by a committee of ``2 f + 1`` nodes. Each tells the others by
an attestation, a signed message, and a node takes the word of ``f + 1`` of them: with at most ``f``
liars, one of these is honest and did check. The ``f + 1`` honest ones of a committee are always
enough. That is for every choice of a committee, so that it need not be random, and nothing is
gained by knowing it beforehand. It goes round with the rounds, so that everybody checks equally
many, and in time everybody's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from qres_core.contract.types import NodeId
from qres_core.kernel.config import committee_size


def committees(
    roster: Sequence[NodeId], byzantine: int, number: int
) -> dict[NodeId, frozenset[NodeId]]:
    """The nodes that check each sender's proof in a round, :func:`committee_size` of them.

    Nobody is in its own committee, and everybody is in equally many.

    Args:
        roster: identities of all nodes, ascending.
        byzantine: liars among them, f.
        number: the round.

    Complexity: O(n f).
    """
    others = len(roster) - 1
    size = committee_size(len(roster), byzantine)
    start = number * size
    return {
        sender: frozenset(
            roster[(rank + 1 + (start + step) % others) % len(roster)] for step in range(size)
        )
        for rank, sender in enumerate(roster)
    }


class Attestations:
    """What was attested in a round.

    Args:
        roster: identities of all nodes, ascending.
        byzantine: liars among them, f.
        most: attestations of one node that are counted for each sender it checks.

    Attributes:
        most: attestations of one node that are counted, which is more than an honest one has.
    """

    def __init__(self, roster: Sequence[NodeId], byzantine: int, most: int) -> None:
        self._roster = roster
        self._byzantine = byzantine
        self.most = most * committee_size(len(roster), byzantine)
        self.open_round(0)

    def open_round(self, number: int) -> None:
        """A round begins: what was attested before counts no more."""
        self._committees = committees(self._roster, self._byzantine, number)
        self._counted = Counter[NodeId]()
        self._attestors: dict[bytes, set[NodeId]] = {}

    def charges(self, checker: NodeId) -> frozenset[NodeId]:
        """Whose proofs a node checks. O(n)."""
        return frozenset(
            sender for sender, checkers in self._committees.items() if checker in checkers
        )

    def take(self, attestor: NodeId, digests: Iterable[bytes]) -> list[bytes]:
        """Count what a node attests; those digests that it had not attested before.

        Args:
            attestor: who signed it.
            digests: of the contributions whose proofs it checked.
        """
        new: list[bytes] = []
        for digest in digests:
            if attestor in self._attestors.get(digest, ()) or self._counted[attestor] >= self.most:
                continue
            self._counted[attestor] += 1
            self._attestors.setdefault(digest, set()).add(attestor)
            new.append(digest)
        return new

    def suffice(self, sender: NodeId, digest: bytes) -> bool:
        """Whether more than ``f`` of a sender's committee attest its contribution."""
        attestors = self._attestors.get(digest)
        if attestors is None:
            return False
        return len(attestors & self._committees[sender]) > self._byzantine
