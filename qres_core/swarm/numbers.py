"""Which round a node begins a height with. Numbers of rounds run on over all heights.

A node contributes, proposes and votes once under one number, at whatever head. Who has used up a
number that the others use next would go on a round ahead of them at every height: it would
contribute to rounds in which nobody is, and they would wait for it. A start in the middle of a
round leads there, and so does a line that is slow for a moment. Such a node waits for the
others, as follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qres_core.swarm.chain import Link
from qres_core.swarm.context import NodeContext, Position
from qres_core.swarm.sync import Pace

if TYPE_CHECKING:
    from qres_core.swarm.choice import Choice
    from qres_core.swarm.steps import Round


def next_number(current: Round, choice: Choice, position: Position) -> int:
    """The first round of the next height: later than all that the node may have voted in.

    Who skips a round may vote and decide in it at once, before its own round is that one. A round
    in which nobody heard this node may be opened again, at another head.

    Args:
        current: the node's round.
        choice: the agreement on the set, at this height; it has no round where the set was decided
            before the node was started.
        position: where the node is.
    """
    engine, number = choice.engine.round, position.number
    decided = 0 if choice.certificate is None else choice.certificate.round
    if engine not in (0, number) or (current.begun and not current.followed):
        return max(number, engine, decided) + 1
    return max(number, position.voted + 1, decided + 1)


def is_ahead_alone(
    number: int, last: Link, choice: Choice, context: NodeContext, pace: Pace
) -> bool:
    """Whether the others begin the next height with an earlier round than this node may.

    A quorum decided the set in a round that this node had left, and those that are not known to
    have left it too can decide without the rest. Then the node follows them until the next height,
    which all begin with one number; or until they cannot decide any more; or until more than ``f``
    others begin its round; or until theirs must be over. It says where it is, so that many which
    are ahead find out.

    Args:
        number: the round that the node may begin with.
        last: the height that is over.
        choice: the agreement on its set, if the node was at that height.
        context: at the head that the node leaves.
        pace: what the others were heard to say.
    """
    certificate = choice.certificate
    known = certificate if last.head.digest == context.head.digest else None
    decided = last.chosen.origin if known is None else known.round
    behind = len(context.roster) - 1 - pace.went_on(decided, last)
    return number > decided + 1 and behind >= context.threshold
