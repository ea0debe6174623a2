"""Do a swarm's numbers allow the mechanism? One judge, before the swarm starts and in its rounds.

What is judged is a :class:`~qres_core.Surroundings`. Before the start the kernel makes it of the
configuration; at the start and in a round :func:`of_node` and :func:`of_round` make it of what is
known then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction

from qres_core import NodeInfo, RoundInfo, Surroundings, Visibility
from qres_core.claims import most_colluders
from qres_core.errors import CompatibilityError, Problem, QresError
from qres_core.training import RecordClip
from qres_dp.modes import Mechanism

Plan = Callable[[Surroundings], Mechanism]
"""Makes the mechanism of the configured options, or raises QRES-E313 or QRES-E314."""


def of_node(node_info: NodeInfo) -> Surroundings:
    """Knowledge of a node when it is set up: a sum may at best have all nodes in it."""
    nodes, byzantine = len(node_info.roster), node_info.byzantine
    return Surroundings(
        nodes=nodes,
        byzantine=byzantine,
        quorum=nodes,
        visibility=Visibility.SUM,
        members=nodes,
        colluders=most_colluders(nodes, byzantine, node_info.colluding),
    )


def of_round(round_info: RoundInfo, colluding: float) -> Surroundings:
    """Knowledge from a round itself: a sum of all has no fewer nodes than the quorum.

    ``colluding``: share of the members that may collude, of the node's info.
    """
    nodes, byzantine = len(round_info.roster), round_info.byzantine
    return Surroundings(
        nodes=nodes,
        byzantine=byzantine,
        quorum=round_info.quorum,
        scale=round_info.scale,
        dimension=round_info.dimension,
        visibility=Visibility.SUM,
        members=round_info.quorum,
        colluders=most_colluders(nodes, byzantine, colluding),
    )


def watchers(colluders: int) -> int:
    """Nodes of a sum that may see it and know their own share of noise: one at least."""
    return max(1, colluders)


def miscounts(
    around: Surroundings, *, delta: float, honest: int, records: RecordClip | None = None
) -> Iterator[Problem]:
    """Numbers of nodes for which the options promise nothing.

    ``honest``: the option; 0 where nothing is shared. ``records``: what a trainer has to bound,
    where the unit is a record. Yields QRES-E314, each with both sides and the remedy.
    """
    units = around.nodes * (records.most if records else 1)
    if Fraction(delta) * units >= 1:
        counted = "swarm.nodes times plugins.dp.records" if records else "swarm.nodes"
        what = (
            f"delta {delta:g} is not below 1 / {units}, {counted}: it would allow the "
            f"data of one {'record' if records else 'node'} to be published"
        )
        yield Problem("QRES-E314", "plugins.dp.delta", what, f"delta < {1 / units:.3g}")
    most = around.members - watchers(around.colluders)
    # Where nothing is hidden, there are no sums to count on; the solver says so (QRES-E303).
    if around.visibility is not Visibility.INDIVIDUAL and honest > most:
        hider = f"plugins.{around.hidden_by}" if around.hidden_by else "the swarm"
        what = (
            f"the noise needs {honest} secret shares, but {hider} may reveal sums of "
            f"{around.members} nodes, and {watchers(around.colluders)} of them may know their own"
        )
        fix = f"honest <= {max(0, most)}, or larger sums: a larger swarm.quorum"
        if around.hidden_by:
            fix += f", in groups a larger least size of plugins.{around.hidden_by}"
        yield Problem("QRES-E314", "plugins.dp.honest", what, fix)


def misfits(
    around: Surroundings,
    plan: Plan,
    *,
    delta: float,
    honest: int,
    records: RecordClip | None = None,
) -> Iterator[Problem]:
    """Everything about the swarm and the plugins beside that would stop noise from being added.

    Yields QRES-E313 and QRES-E314, each with both sides and the remedy.
    """
    yield from miscounts(around, delta=delta, honest=honest, records=records)
    if records and around.before:
        earlier = " and ".join(f"plugins.{name}" for name in around.before)
        what = f"{earlier} changes the update after its records were clipped one by one"
        fix = f"put [plugins.dp] before [plugins.{around.before[0]}] in the file"
        yield Problem("QRES-E314", "plugins.dp.unit", what, fix)
    if around.companions:
        names = [f"plugins.{name}" for name in around.companions]
        what = f"what {', '.join(names)} puts beside the update would leave without noise"
        fix = f"put [plugins.dp] before [{names[0]}] in the file"
        yield Problem("QRES-E314", "plugins.dp", what, fix)
    try:
        plan(around)
    except QresError as error:
        yield from error.problems


def refuse(problems: Iterable[Problem]) -> None:
    """Raise what was found, if anything was. Raises CompatibilityError: with all of it."""
    found = tuple(problems)
    if found:
        raise CompatibilityError(found)
