"""Look-ahead at a round of the swarm, tried out on copies of a node's plugins.

An attacker that knows everything about a swarm can work out what any lie of its would lead to. Here
it asks: the honest updates and the forged rows go through ``verify`` and the data path of a round
(:mod:`qres_core.swarm.contributions.merge`) in copies of the observer's plugins, in the state they
are in. No node sees anything of what an attacker tries.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract.errors import LabError, QresError
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import (
    Contribution,
    NodeId,
    Update,
    Updates,
    Vector,
    vector_digest,
)
from qres_core.contract.verdict import ACCEPT
from qres_core.contract.wire import Envelope
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.contributions.merge import Members, Merger
from qres_core.swarm.ledger.messages import CONTRIBUTION
from qres_core.swarm.storage.kept_contributions import Gathering, Held

ASKED: Final = frozenset(
    {
        "verify",
        "reputation",
        "observe",
        "screen",
        "revealable",
        "reveal",
        "wrap_aggregate",
        "aggregate",
        "endorse",
    }
)
"""Hooks that a probe calls; plugins without any of them are not copied."""


@attrs.define(eq=False)
class Sandbox:
    """Copies of a node's plugins to try things out on."""

    original: Kernel  # the node's kernel; never called, only copied
    _copied: Kernel | None = attrs.field(default=None, init=False)

    def fresh(self) -> Kernel:
        """A kernel whose plugins are in the state that the node's are in now.

        It is the same object every time: what was tried before is undone. Raises LabError:
        QRES-E105 for a plugin that cannot be copied.
        """
        if self._copied is None:
            enabled = [_copied(plugin) for plugin in self.original.enabled]
            original = self.original
            self._copied = Kernel(enabled, original.swarm, solution=original.solution)
            # Its plugins were set up, the kernel was not.
            self._copied.enter(original.intake.roster, original.intake.banned)
            return self._copied
        self._copied.enter(self.original.intake.roster, self.original.intake.banned)
        for plugin, copied in zip(self.original.enabled, self._copied.enabled, strict=True):
            if plugin.instance is not copied.instance:
                _restore(copied.instance, plugin.instance)
        return self._copied


def _copied(plugin: Enabled) -> Enabled:
    if ASKED.isdisjoint(plugin.hooks):
        return plugin
    try:
        return attrs.evolve(plugin, instance=copy.deepcopy(plugin.instance))
    except Exception as error:
        what = f"the attack tries the plugin out, and it cannot be copied: {error}"
        fix = "choose an attack that does not probe"
        raise LabError.of("QRES-E105", f"plugins.{plugin.name}", what, fix) from error


def _restore(copied: object, original: object) -> None:
    """Give a plugin a copy of another's state. Plugins are attrs classes: it is in their fields."""
    memo: dict[int, Any] = {id(original): copied}  # what refers to the plugin refers to the copy
    kind: Any = type(original)
    for field in attrs.fields(kind):
        if hasattr(original, field.name):
            value = copy.deepcopy(getattr(original, field.name), memo)
            object.__setattr__(copied, field.name, value)
        elif hasattr(copied, field.name):  # a probe filled what is not filled yet
            object.__delattr__(copied, field.name)
    if hasattr(original, "__dict__"):
        vars(copied).clear()
        vars(copied).update(copy.deepcopy(vars(original), memo))


@attrs.define(eq=False)
class _Judge:
    """A node's held-out examples; what one probe found out is not computed again for the next."""

    seen: HeldOut
    losses: dict[bytes, float] = attrs.field(factory=dict[bytes, float])

    def anew(self) -> HeldOut:
        """As the node has it anew in every round."""
        seen = self.seen
        return HeldOut(seen.model, self._loss, seen.reference if seen.train is not None else None)

    def _loss(self, model: Vector) -> float:
        key = vector_digest(model)
        if key not in self.losses:
            self.losses[key] = self.seen.validate(model)
        return self.losses[key]


@attrs.define(eq=False)
class Shadow:
    """One round as an attacker may try it."""

    sandbox: Sandbox  # copies of an honest node's plugins
    round_info: RoundInfo  # the round
    model: Vector  # the round's model, int32, shape ``(d,)``
    honest: Mapping[NodeId, Update]  # what the honest nodes contribute, by identity
    # what training gave the attackers, by identity in the order of their rows; their rows are sent
    # with these updates' weights
    attackers: Mapping[NodeId, Update]
    trainer: object = None  # the proposer's, whose held-out examples screen, if it keeps any
    # of the honest nodes that vote, each with its held-out examples; by default the proposer's
    voters: Sequence[object] = ()
    needed: int = 1  # how many of the voters must vote for a set
    # what screens in place of the proposer's plugins, where an attacker proposes
    screens: Callable[[Updates, RoundInfo], Screening] | None = None
    _true: tuple[Held, ...] = attrs.field(default=(), init=False)  # made once for all probes
    _judge: _Judge | None = attrs.field(default=None, init=False)
    _votes: tuple[_Judge | None, ...] = attrs.field(default=(), init=False)

    @staticmethod
    def copies_of(kernel: Kernel) -> Sandbox:
        """Copies of a node's plugins, for all rounds."""
        return Sandbox(kernel)

    def __attrs_post_init__(self) -> None:
        made = self.honest.items()
        self._true = tuple(self._held(item, update.vector, update.weight) for item, update in made)
        self._judge = self._judge_of(self.trainer)
        self._votes = tuple(
            self._judge if voter is self.trainer else self._judge_of(voter)
            for voter in self.voters or (self.trainer,)
        )

    def _judge_of(self, trainer: object) -> _Judge | None:
        seen = HeldOut.of(trainer, self.model, self.round_info)
        return None if seen is None else _Judge(seen)

    def probe(self, rows: NDArray[np.int32]) -> Vector | None:
        """Merge as the swarm would if the attackers sent these rows.

        Args:
            rows: int32, shape ``(m, d)``; row ``k`` is attacker ``k``'s, the others send nothing.

        Returns:
            int32, shape ``(d,)``; ``None`` if the round would not close.

        Raises:
            LabError: QRES-E105 for more rows than attackers, and for a plugin that cannot be
                copied.

        Complexity: one copy of the plugins' state, and what the hooks take.
        """
        if len(rows) > len(self.attackers):
            what = f"{len(rows)} forged rows of {len(self.attackers)} attackers"
            raise LabError.of("QRES-E105", "probe.rows", what, "one row for each attacker")
        kernel = self.sandbox.fresh()
        try:
            gathering = self._gathered(kernel, rows)
            judge = self._judge
            held_out = None if judge is None else judge.anew()
            merger = Merger(kernel, gathering, self.round_info, held_out)
            members = self._chosen(kernel, merger)
            few = len(members) < self.round_info.quorum
            if few or not self._endorsed(merger, members):
                return None
            return merger.merge(members)
        except QresError:
            return None

    def _chosen(self, kernel: Kernel, merger: Merger) -> Members:
        """Set that would be proposed."""
        if self.screens is None:
            choice = merger.choose()
            for evidence in choice.against:
                kernel.observe(evidence)
            return choice.members
        members = merger.seen_by(None).choose().members  # by no examples
        cap = self.sandbox.original.swarm.weight_cap
        screening = self.screens(merger.gathering.stack(members, cap), self.round_info)
        return tuple(member for member in members if screening.of(member.sender))

    def _endorsed(self, merger: Merger, members: Members) -> bool:
        """True if as many voters as needed would have the set merged."""
        own, votes = merger.judge(members)[0], 0  # merges the set, for all
        for judge in self._votes:
            if judge is self._judge:
                verdict = own
            else:
                other = merger.seen_by(None if judge is None else judge.anew())
                verdict = other.judge(members)[0]
            votes += verdict is ACCEPT
            if votes >= self.needed:
                return True
        return False

    def _gathered(self, kernel: Kernel, rows: NDArray[np.int32]) -> Gathering:
        """The honest contributions, taken for valid, and those forged ones that pass ``verify``."""
        gathering = Gathering()
        for held in self._true:
            gathering.add(held)
        for (sender, own), row in zip(self.attackers.items(), rows, strict=False):
            held = self._held(sender, np.ascontiguousarray(row), own.weight)
            verdict, plugin = kernel.verify(held.contribution, self.round_info)
            if verdict is ACCEPT:
                gathering.add(held)
            else:
                number = self.round_info.number
                kernel.refuse(verdict.reason, verdict.blame, sender, plugin, number)
        return gathering

    def _held(self, sender: NodeId, vector: Vector, weight: int) -> Held:
        info = self.round_info
        capped = min(weight, self.sandbox.original.swarm.weight_cap)
        # A sender's identity is as good as a digest here: it contributes once.
        contribution = Contribution(sender, sender, vector, capped)
        return Held(
            contribution,
            Envelope(info.swarm, CONTRIBUTION, info.number, info.head, sender, 0, 0, b""),
        )
