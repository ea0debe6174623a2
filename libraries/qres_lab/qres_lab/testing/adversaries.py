"""Liars that run your plugin: what a test of a plugin's protocol plays against honest nodes.

A simulation takes them as ``hostile`` plugins, which attackers run in place of yours. One that
keeps messages back on their way is the sabotage ``withhold``, which :func:`sabotage` puts into a
scenario with other choices of whom it tells.

Each attack needs a control: the same liar against your plugin without the check that stops it. An
attack that does not succeed there shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.attacks.sabotage import SABOTAGE, RegisteredSabotage, Saboteur
from qres_core.contract.dialogue import Dialogue, DialogueMessage, Send
from qres_core.contract.evidence import Accusation
from qres_core.contract.hookspecs import hookimpl
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution, NodeId, NodeInfo, Updates, Vector

Lie = Callable[[Send], Iterable[Send]]
"""From what an honest node would say in a dialogue: what the liar says."""
Absent = Callable[[NodeId, RoundInfo], Collection[NodeId]]
"""From a node's own identity and a round: whom it would leave out of a set."""
P = TypeVar("P")
_PLAYED: Final = "played"


# ── what is said in a dialogue ────────────────────────────────────────────────────────────────


def silent(*steps: int) -> Lie:
    """Leave these steps out, as who leaves when it has seen enough.

    With the step in which secrets are opened: the others open theirs, and this node is gone.
    """
    return lambda send: () if send.step in steps else (send,)


def changed(step: int, change: Callable[[bytes], bytes]) -> Lie:
    """Say something else in a step: a dealer of bad shares, or a holder that opens wrong ones."""
    return lambda send: (
        (attrs.evolve(send, body=change(send.body)) if send.step == step else send),
    )


@attrs.define(eq=False)
class LyingDialogue:
    """A dialogue of which the others hear what a :data:`Lie` makes of it. It hears all itself."""

    inner: Dialogue  # an honest node's
    lie: Lie

    @property
    def ready(self) -> bool:
        """As the honest one."""
        return self.inner.ready

    @property
    def finished(self) -> bool:
        """As the honest one."""
        return self.inner.finished

    def start(self) -> Sequence[Send | Accusation]:
        """The honest one's, lied about."""
        return self._said(self.inner.start())

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        """The honest one's, lied about."""
        return self._said(self.inner.receive(message))

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        """The honest one's, lied about."""
        return self._said(self.inner.tick(now))

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send | Accusation]:
        """The honest one's, lied about."""
        return self._said(self.inner.decided(members, contributions, round_info))

    def _said(self, sends: Sequence[Send | Accusation]) -> Sequence[Send | Accusation]:
        found: list[Send | Accusation] = []
        for send in sends:
            found.extend(self.lie(send) if isinstance(send, Send) else (send,))
        return found


def lying(kind: type[P], lie: Lie) -> type[P]:
    """A plugin that runs another one and lies in what its dialogues say.

    Args:
        kind: the honest plugin, an attrs class with the hook ``round_opened``.
        lie: what it says instead.

    Returns:
        a subclass, for ``Installed.local`` and ``simulate(hostile=...)``.
    """
    honest = cast("Any", kind)

    def round_opened(self: Any, round_info: RoundInfo) -> Dialogue | None:
        opened: Dialogue | None = honest.round_opened(self, round_info)
        return None if opened is None else LyingDialogue(opened, lie)

    return _turned(kind, {"round_opened": hookimpl(round_opened)})


# ── who is in a set ───────────────────────────────────────────────────────────────────────────


def leaving_out(kind: type[P], absent: Absent) -> type[P]:
    """A plugin that runs another one and leaves members that are alive out of what it proposes.

    Args:
        kind: the honest plugin, an attrs class with the hooks ``setup`` and ``reveal``.
        absent: whom, as a proposer of that round. Empty where the node is to be honest: the hook
            ``revealable`` also judges what others propose.

    Returns:
        a subclass, for ``Installed.local`` and ``simulate(hostile=...)``.
    """
    honest = cast("Any", kind)

    def setup(self: Any, node_info: NodeInfo) -> None:
        self._runs_as = node_info.node_id
        honest.setup(self, node_info)

    def revealable(
        self: Any, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> tuple[NodeId, ...]:
        named: tuple[NodeId, ...] = tuple(item.sender for item in contributions)
        gone = absent(self._runs_as, round_info)
        if gone and not set(named).intersection(gone):
            return named  # it stands by what it proposes, whatever an honest node would say of that
        if hasattr(honest, "revealable"):
            named = honest.revealable(self, contributions, round_info)
        return tuple(name for name in named if name not in gone)

    return _turned(
        kind,
        {
            "_runs_as": attrs.field(init=False, default=b"", type=bytes),
            "setup": hookimpl(setup),
            "revealable": hookimpl(revealable),
        },
    )


def _turned(kind: type[P], body: dict[str, Any]) -> type[P]:
    made = type(kind.__name__, (kind,), {"__doc__": kind.__doc__, **body})
    return cast("type[P]", attrs.define(eq=False, auto_attribs=False)(made))


@contextmanager
def sabotage(saboteur: Callable[[], Saboteur]) -> Generator[str]:
    """Make a saboteur known to scenarios for a while.

    Args:
        saboteur: makes one, for example
            ``lambda: Withhold(tells=lambda message: message.place % 3 != 1)``.

    Yields:
        its name, for ``Scenario(attack=...)``.
    """
    SABOTAGE[_PLAYED] = RegisteredSabotage(_PLAYED, "an attack of a test", saboteur)
    try:
        yield _PLAYED
    finally:
        del SABOTAGE[_PLAYED]


# ── what colluders learn ──────────────────────────────────────────────────────────────────────


@attrs.frozen(eq=False)
class Rest:
    """Rest of a sum once colluders have taken their own inputs out."""

    members: tuple[NodeId, ...]  # the others whose inputs it holds, ascending
    total: NDArray[np.int64]  # int64, shape ``(d,)``


def left_of_sums(updates: Updates, own: Mapping[NodeId, Vector]) -> tuple[Rest, ...]:
    """Rests that colluders know of the others after sums were opened.

    A sum that leaves a single member is that member's update. A plugin that hides updates in sums
    is to leave two or more, whoever colludes of those it was planned for.

    Args:
        updates: what ``reveal`` gave, with ``sums`` and ``members``; of equal weights.
        own: the colluders' inputs, int32, shape ``(d,)``.

    Returns:
        the rest of each sum that holds inputs of others.

    Raises:
        ValueError: there are no sums.

    Complexity: O(n d).
    """
    if updates.sums is None:
        raise ValueError("updates has no sums")
    found: list[Rest] = []
    for members, total in zip(updates.members, updates.sums, strict=True):
        others = tuple(member for member in members if member not in own)
        if others:
            ours = [own[member].astype(np.int64) for member in members if member in own]
            found.append(Rest(others, total - np.sum(ours, axis=0, dtype=np.int64)))
    return tuple(found)


def first_draw(
    draw: Callable[[int], Iterable[Collection[Hashable]]], wanted: Collection[Hashable], tries: int
) -> int | None:
    """Draw that puts some members into one group, for attackers that may have it drawn again.

    Args:
        draw: the groups of a round by its number, in all else the same; of identities or of
            ranks.
        wanted: colluders and whom they are after.
        tries: how many rounds they may let fail.

    Returns:
        the number of the first round, from 1; ``None`` if there is none.
    """
    together = set(wanted)
    return next(
        (
            number
            for number in range(1, tries + 1)
            if any(together <= set(group) for group in draw(number))
        ),
        None,
    )
