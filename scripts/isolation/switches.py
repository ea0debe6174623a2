"""The guards of secure aggregation, each taken out by a change of what the product does."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final
from unittest import mock

import attrs
from qres_secagg import board, chances, graph, parameters, permission, sizing, survivors
from qres_secagg.session import Session

from isolation.setting import Setting, draw


@attrs.frozen
class Switch:
    """A guard that something rests on."""

    name: str
    nodes: tuple[int, int]  # fewest and most of the swarms that miss it soonest
    plan: str  # of an adversary that it stops
    heights: int  # that such an adversary plays
    patches: tuple[tuple[object, str, object], ...]  # where, what, and what instead
    # of the swarm, if only a certain one misses it
    numbers: Mapping[str, Any] = attrs.field(factory=dict[str, Any])

    def drawn(self, seed: int) -> Setting:
        """A setting for its control, to be drawn without it."""
        setting = draw(seed, fewest=self.nodes[0], most=self.nodes[1])
        setting = attrs.evolve(
            setting, plan=self.plan, heights=self.heights, placed=True, loss=0.0, relayed=True
        )
        return attrs.evolve(setting, **self.numbers)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The product without it."""
        with ExitStack() as stack:
            for owner, attribute, instead in self.patches:
                if not hasattr(owner, attribute):
                    message = f"the product has changed; look again at the guard: {self.name}"
                    raise LookupError(message)
                stack.enter_context(mock.patch.object(owner, attribute, instead))
            yield


NEIGHBOURS: Final = Switch(
    "every survivor keeps a threshold of survivors near it",
    (65, 72),
    "isolate",
    1,
    (
        (survivors, "exposed", lambda *_: []),
        (permission, "exposed", lambda *_: []),
        (survivors, "may_be_cut", lambda *_: False),  # finds it as well
    ),
)


def _topology_of_the_round(session: Session) -> graph.Topology:
    digest = hashlib.sha256(session.model_digest + struct.pack("<Q", session.round)).digest()
    return graph.topology(attrs.evolve(session, model_digest=digest))


HONEST: Final = Switch(
    "every sum has two inputs more than nodes may be corrupt",
    (8, 24),
    "thin",
    2,
    (
        (parameters, "HONEST_LEAST", 0),
        (permission, "HONEST_LEAST", 0),
        (sizing, "needed_inputs", lambda _corrupt: chances.FEWEST),
    ),
)
DRAWS: Final = Switch(
    "one draw of graph and groups for a model",
    (8, 24),
    "everybody",
    6,
    ((board, "topology", _topology_of_the_round),),
)
RECORD: Final = Switch(
    "opened sums are on record",
    (8, 24),
    "difference",
    4,
    ((permission.Classes, "permitted", lambda _classes, present, *_: frozenset(present)),),
)
CUTS: Final = Switch(
    "no set that corrupt nodes could cut in two",
    (66, 66),
    "cut",
    3,
    ((survivors, "may_be_cut", lambda *_: False),),
    {
        "nodes": 66,
        "byzantine": 2,
        "corrupt": 2,
        "dropped": 6,
        "quorum": 35,
        "options": {"corrupt": 0.0, "dropout": 0.1},
        "placed": False,
    },
)
ALL: Final[dict[str, Switch]] = {
    "neighbours": NEIGHBOURS,
    "honest": HONEST,
    "draws": DRAWS,
    "record": RECORD,
    "cuts": CUTS,
}
