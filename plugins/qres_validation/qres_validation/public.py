"""The ``public_validation`` plugin: judge what was merged by examples that every node holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import attrs

from qres_core import (
    ACCEPT,
    Claims,
    NodeInfo,
    Reads,
    Surroundings,
    Updates,
    Vector,
    hookimpl,
    options,
)
from qres_core.claims import Wraps
from qres_core.errors import Problem, ValueRefusedError
from qres_core.training import HeldOut
from qres_validation.endorsement import vote


@attrs.frozen
class PublicValidation:
    """Refuse a merged update that harms examples all nodes hold alike.

    Where single updates are hidden there is nothing to try before the vote: what would be merged is
    known only once the sum is revealed, and then it is agreed. A vote after that would be a second
    agreement. Examples that are the same on every node need none: all nodes compute the same two
    losses from the same model and come to the same verdict. A refused update changes nothing; the
    round is aborted on every node alike.

    What it rests on: the examples are public, so an attacker knows what is tested; and ``validate``
    of the trainer gives the same loss everywhere. Nodes whose losses differ in the last digit could
    come to two verdicts when the loss is exactly at the limit. The smaller part then lags and
    catches up by a snapshot, or stops with QRES-E601; nothing is merged twice.

    Attributes:
        tolerance: how much the merged update may raise the loss on the public examples, as a share
            of it.

    Raises:
        OptionError: QRES-E105, the option is out of range.

    Complexity: two evaluations of a model in a round.
    """

    tolerance: float = attrs.field(
        default=0.1,
        validator=options.real(0),
        metadata=options.help_text(
            "Share of the loss by which a merged update may raise the loss on the "
            "public examples before every node refuses it."
        ),
    )

    claims = Claims(
        tolerates=None,
        wraps=Wraps(alters=False),
        reads=Reads.NOTHING,
        notices=("the held-out examples must be the same on every node",),
    )
    """It passes on what it gets, or nothing."""

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that it judges what is merged, and not what a wrapper before it still changes.

        Yields QRES-E303.
        """
        for name in around.altered_by:
            what = f"plugins.{name} may change the merged update after it was judged"
            fix = f"put [plugins.public_validation] before [plugins.{name}]"
            yield Problem("QRES-E303", "plugins.public_validation", what, fix)

    def preflight(self, node_info: NodeInfo) -> Iterator[Problem]:
        """Refuse a node whose trainer keeps no examples: yields QRES-E311."""
        if not node_info.validates:
            what = "judges models by public examples, and the node's trainer keeps none"
            fix = (
                "give the trainer validate(vector), or set trainer.task.held_out and "
                "trainer.task.same_held_out = true"
            )
            yield Problem("QRES-E311", "plugins.public_validation", what, fix)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, held_out: HeldOut | None
    ) -> Vector:
        """Pass on what the chain merged, unless it is worse on the public examples.

        Raises QRES-E507 for a merged update that raises the loss beyond the tolerance, or where
        there is nothing to judge by.
        """
        merged = proceed(updates)
        if held_out is None:
            what = "there are no public examples to judge by"
            raise ValueRefusedError.of("QRES-E507", "plugins.public_validation", what)
        if vote(merged, held_out, self.tolerance) is not ACCEPT:
            what = "the merged update is worse on the public examples"
            raise ValueRefusedError.of("QRES-E507", "plugins.public_validation", what)
        return merged
