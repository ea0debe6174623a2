"""The kernel: the plugins of one node, composed.

It starts and stops them, and asks them for what the node itself does. What they think of others'
messages is in :mod:`qres_core.kernel.intake`, what they make of an agreed set in
:mod:`qres_core.kernel.merging`; :mod:`qres_core.kernel.calls` calls them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Concatenate, Final, Generic, ParamSpec, TypeVar, cast, overload

import attrs

from qres_core.contract.dialogue import Dialogue
from qres_core.contract.errors import (
    CompatibilityError,
    ConfigError,
    HookError,
    Problem,
    QresError,
)
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.rounds import Outcome, OwnContributions, RoundInfo
from qres_core.contract.transport import LinkKeys, Transport
from qres_core.contract.types import NodeId, NodeInfo, Update
from qres_core.contract.wire import Envelope
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.calls import Calls
from qres_core.kernel.config import Config, SwarmConfig
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.guard import guarded
from qres_core.kernel.intake import Intake
from qres_core.kernel.merging import Merging
from qres_core.kernel.ranged import in_ranges
from qres_core.kernel.settings import SharedSettings, shared_settings
from qres_core.kernel.solver import Solution, solve

_NOTHING: Final = OwnContributions()

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Of(Generic[P, R]):
    """A method of one of the kernel's parts, under its own name.

    Looked up once: whoever calls it later is with the part at once.
    """

    def __init__(self, method: Callable[Concatenate[Any, P], R]) -> None:
        part, _dot, self._name = method.__qualname__.partition(".")
        self._part, self.__doc__ = part.lower(), method.__doc__

    @overload
    def __get__(self, kernel: None, _owner: type) -> _Of[P, R]: ...

    @overload
    def __get__(self, kernel: object, _owner: type) -> Callable[P, R]: ...

    def __get__(self, kernel: object, _owner: type) -> Callable[P, R] | _Of[P, R]:
        if kernel is None:
            return self
        method = cast("Callable[P, R]", getattr(getattr(kernel, self._part), self._name))
        vars(kernel)[self._name] = method
        return method


class Kernel:
    """The plugins of one node, composed, in file order.

    ``solution``: what the solver is known to find; it is not asked then. Raises CompatibilityError:
    every reason (QRES-E3xx) why the plugins do not add up; QRES-E105 where their shared settings
    are too large. Raises PluginError: QRES-E206 for an option that cannot be compared.
    """

    def __init__(
        self, enabled: Sequence[Enabled], swarm: SwarmConfig, *, solution: Solution | None = None
    ) -> None:
        self.solution: Solution = solve(enabled, swarm) if solution is None else solution
        if self.solution.problems:
            raise CompatibilityError(self.solution.problems)
        self.enabled = tuple(enabled)
        self.swarm = swarm
        # Read before ``setup``, which may fill fields: what the file says is to be compared.
        self.settings: SharedSettings = shared_settings(swarm, enabled)
        self.calls = Calls(enabled)
        self.intake = Intake(self.calls, enabled, swarm)
        self.merging = Merging(self.calls, self.intake, enabled)
        self._dimension = 0  # of the model, 0 while it is not known

    has = _Of(Calls.has)

    enter = _Of(Intake.enter)
    key_index = _Of(Intake.key_index)
    is_of_old_key = _Of(Intake.is_of_old_key)
    standing = _Of(Intake.standing)
    admit = _Of(Intake.admit)
    approved = _Of(Intake.approved)
    authority = _Of(Intake.authority)
    inbound = _Of(Intake.inbound)
    read = _Of(Intake.read)
    authenticate = _Of(Intake.authenticate)
    takes_part = _Of(Intake.takes_part)
    quoted = _Of(Intake.quoted)
    authentic = _Of(Intake.authentic)
    check_beside = _Of(Intake.check_beside)
    verify = _Of(Intake.verify)
    verify_shard = _Of(Intake.verify_shard)
    verify_all = _Of(Intake.verify_all)
    refuse = _Of(Intake.refuse)
    observe = _Of(Intake.observe)

    revealable = _Of(Merging.revealable)
    reveal = _Of(Merging.reveal)
    reveal_shard = _Of(Merging.reveal_shard)
    check_unseen = _Of(Merging.check_unseen)
    aggregate = _Of(Merging.aggregate)
    aggregate_shard = _Of(Merging.aggregate_shard)
    wrap_merged = _Of(Merging.wrap_merged)
    compared = _Of(Merging.compared)
    screen = _Of(Merging.screen)
    endorse = _Of(Merging.endorse)

    @classmethod
    def from_config(
        cls, config: Config, *, installed: Mapping[str, Installed] | None = None
    ) -> Kernel:
        """Find, import, configure and compose the plugins of a configuration.

        Raises PluginError: QRES-E2xx and, for plugin options, QRES-E1xx. Raises CompatibilityError:
        QRES-E3xx.
        """
        found = scan() if installed is None else installed
        return cls(assemble(config, found), config.swarm)

    @classmethod
    def that_authenticates(
        cls, config: Config, *, installed: Mapping[str, Installed] | None = None
    ) -> Kernel:
        """The plugins of a configuration that tell who made a message, and no others.

        For a tool that checks what nodes signed. It takes no part in a swarm, so nothing else need
        be enabled: what is signed twice is no concern of it, and neither is what can be combined.
        Raises PluginError: QRES-E2xx and, for plugin options, QRES-E1xx. Raises CompatibilityError:
        QRES-E301 where no enabled plugin authenticates.
        """
        enabled = assemble(config, scan() if installed is None else installed)
        chosen = [plugin for plugin in enabled if "authenticate" in plugin.hooks]
        if not chosen:
            what = f"no plugin that {config.source} enables tells who made a message"
            fix = "enable those that the swarm's nodes sign with"
            raise CompatibilityError.of("QRES-E301", "plugins", what, fix)
        return cls(chosen, config.swarm, solution=Solution((), ()))

    def fit(self, dimension: int) -> None:
        """Solve again, now that the model's dimension is known.

        Raises CompatibilityError: what does not fit a model of that many coordinates. Raises
        PluginError: QRES-E206 for a plugin that cannot say where shards may be cut.
        """
        solution = solve(self.enabled, self.swarm, dimension=dimension)
        if solution.problems:
            raise CompatibilityError(solution.problems)
        if self.swarm.aggregation == "sharded":
            self.shard_run(dimension)
        self.solution, self._dimension = solution, dimension

    @property
    def record_clip(self) -> RecordClip | None:
        """Bound of one example's part in a node's update, if a plugin protects single examples."""
        asked = (plugin.claims.needs.records for plugin in self.enabled)
        return next((clip for clip in asked if clip is not None), None)

    @property
    def by_products(self) -> tuple[str, ...]:
        """The hooks that look at whole updates by their inner products, from the outermost."""
        return self.merging.by_products

    @property
    def rejections(self) -> Counter[str]:
        """Refusals by this node, by fact."""
        return self.intake.rejections

    @property
    def merges_in_ranges(self) -> bool:
        """True if updates may be merged a range of coordinates at a time, with the same result."""
        return in_ranges(self.enabled)

    @property
    def opens_shards(self) -> bool:
        """True if single updates are hidden, and committees can open sums shard by shard."""
        return self.has("reveal_shard")

    def refusals(
        self, members: Collection[NodeId], byzantine: int, quorum: int
    ) -> tuple[Problem, ...]:
        """Find objections to these members, where a promise of the plugins would no longer hold.

        It rests on the configuration and the arguments alone, so nodes with equal settings come to
        the same. To be asked before a change of members is proposed or voted for: afterwards, every
        round of the new members could fail. ``members``: those of the changed roster. Returns every
        reason, none if the change may be made. O(p**2) for p plugins, and what their ``check``
        takes.
        """
        roster = tuple(node.hex() for node in sorted(members))
        try:
            swarm = attrs.evolve(
                self.swarm, nodes=len(roster), byzantine=byzantine, quorum=quorum, roster=roster
            )
        except QresError as error:
            return error.problems
        return solve(self.enabled, swarm, dimension=self._dimension).problems

    def shard_run(self, dimension: int) -> int:
        """Coordinates in a row that no shard of a model may part, at least 1.

        Raises PluginError: QRES-E206, see :meth:`Enabled.ask`.
        """
        if self.opens_shards:
            return 1
        checking = (plugin for plugin in self.enabled if "verify_shard" in plugin.hooks)
        return math.lcm(*(plugin.ask("shard_run", dimension) for plugin in checking))

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def identity(self, seed: bytes | None) -> NodeId | None:
        """Identity of the node, or ``None`` where no plugin says so."""
        absent: NodeId | None = None
        return self.calls.first("identity", absent, seed=seed)

    def link_keys(self) -> LinkKeys | None:
        """Proofs of identities on a connection, or ``None`` where no plugin has them."""
        absent: LinkKeys | None = None
        return self.calls.first("link_keys", absent)

    def credential(self) -> bytes:
        """Credential for a neighbour that connects; empty where no plugin has anything."""
        return self.calls.first("credential", b"")

    def setup(self, node_info: NodeInfo) -> None:
        """Run ``setup`` of every plugin in file order, if :meth:`preflight` finds nothing.

        Raises CompatibilityError or ConfigError: what :meth:`preflight` found. Raises
        PluginError: QRES-E210 where a plugin claims something else than before. Raises
        QresError: what a plugin's ``setup`` refuses.
        """
        # Their stores are opened next, by `setup` itself: nothing is looked at twice.
        if problems := self.preflight(attrs.evolve(node_info, data_dir=None)):
            of_file = any(not problem.code.startswith("QRES-E3") for problem in problems)
            raise (ConfigError if of_file else CompatibilityError)(problems)
        self.enter(frozenset(node_info.roster))
        self.calls.all("setup", node_info=self._told(node_info))
        self.intake.read_keys()
        for plugin in self.enabled:
            plugin.keeps_its_word()

    def preflight(self, node_info: NodeInfo) -> tuple[Problem, ...]:
        """Find reasons that would keep the plugins from being set up here, as far as reading shows.

        A start and whoever only wants to know whether there could be one ask this alike; nothing is
        written or kept. Returns QRES-E311 where a plugin validates and the node's trainer does not,
        QRES-E318 where one protects single examples and the trainer does not clip them, and what
        plugins say. Raises PluginError: QRES-E206 for a plugin that does not say it properly.
        """
        found: list[Problem] = []
        judges = self.calls.names("screen") or self.calls.names("endorse")
        if judges and not node_info.validates:
            what = "judges updates by held-out examples, but the node's trainer keeps none"
            fix = "give the trainer validate(vector), or set trainer.task.held_out"
            found.append(Problem("QRES-E311", f"plugins.{judges[0]}", what, fix))
        clips = {plugin.name: plugin.claims.needs.records for plugin in self.enabled}
        clipper = next((name for name, clip in clips.items() if clip is not None), "")
        if clipper and clips[clipper] != node_info.clipped:
            what = "protects single examples, but the node's trainer does not clip them as it asks"
            fix = "wrap the trainer with by_record before the node starts"
            found.append(Problem("QRES-E318", f"plugins.{clipper}", what, fix))
        told = self._told(node_info)
        said = [problem for plugin in self.enabled for problem in plugin.ask("preflight", told)]
        known = {problem.where for problem in found}
        return (*found, *(problem for problem in said if problem.where not in known))

    def _told(self, node_info: NodeInfo) -> NodeInfo:
        """Facts for plugins about a node, with the solution."""
        found = self.solution
        return attrs.evolve(
            node_info,
            visibility=found.visibility,
            colluding=found.colluding,
            rows=found.rows,
            noised=found.noised,
        )

    def teardown(self) -> None:
        """Run ``teardown`` of every plugin in reverse order; errors come together at the end."""
        errors: list[Exception] = []
        for name, caller in reversed(self.calls.by_hook["teardown"]):
            try:
                self.calls.one(name, "teardown", caller)
            except QresError as error:
                errors.append(error)
        if errors:
            msg = "teardown failed"
            raise ExceptionGroup(msg, errors)

    def remember(self, *, agreed: bool) -> dict[str, bytes]:
        """Memory of the plugins from round to round, by plugin, of those that keep something.

        ``agreed``: what every node keeps alike, or else what is this node's own. Raises
        PluginError: QRES-E206 for a plugin that does not say it properly.
        """
        asked = [plugin for plugin in self.enabled if plugin.keeps_agreed is agreed]
        kept = {plugin.name: plugin.remember() for plugin in asked}
        return {name: memory for name, memory in kept.items() if memory}

    def recall(self, memory: Mapping[str, bytes]) -> None:
        """Give plugins what :meth:`remember` told, after ``setup`` and before the first round.

        Raises PluginError: QRES-E206 for a plugin that does not take it.
        """
        for plugin in self.enabled:
            if plugin.name in memory:
                plugin.recall(memory[plugin.name])

    def status(self) -> dict[str, dict[str, object]]:
        """Figures that the plugins show, by plugin; never raises."""
        shown: dict[str, dict[str, object]] = {}
        for name, caller in self.calls.by_hook["status"]:
            try:
                shown[name] = guarded(_as_shown)(self.calls.one(name, "status", caller))
            except QresError as error:
                shown[name] = {"error": str(error.problems[0])}
            except Exception as error:  # noqa: BLE001 - a fact is code of the plugin too
                shown[name] = {"error": f"a fact raised {type(error).__name__} (QRES-E701)"}
        return shown

    def round_opened(
        self, round_info: RoundInfo, contributed: OwnContributions = _NOTHING
    ) -> dict[str, Dialogue]:
        """Open the round with every plugin; the dialogues they want, by plugin.

        ``contributed``: what the node knows of its contributions so far.
        """
        named = {"round_info": round_info, "contributed": contributed}
        opened = self.calls.each("round_opened", **named)
        return {name: dialogue for name, dialogue in opened if dialogue is not None}

    def round_closed(self, outcome: Outcome) -> None:
        """Tell every plugin how the round ended."""
        self.calls.all("round_closed", outcome=outcome)

    def transport(self, node_info: NodeInfo) -> Transport:
        """The transport of the node."""
        named = {"admission": self.admit, "credential": self.credential}
        ((_name, transport),) = self.calls.each(
            "transport", node_info=node_info, link_keys=self.link_keys(), **named
        )
        made: Transport = transport
        return made

    # ── outbound ──────────────────────────────────────────────────────────────────────────────

    def sign(self, envelope: Envelope) -> Envelope:
        """The envelope with an authenticator of every signing plugin."""
        auth: dict[str, bytes] = dict(self.calls.each("sign", envelope=envelope))
        return envelope.with_auth(auth) if auth else envelope

    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """The update after the whole chain."""
        for name, caller in self.calls.by_hook["privatize"]:
            named = {"update": update, "round_info": round_info}
            result: Update = self.calls.one(name, "privatize", caller, **named)
            if result.companions and not self.intake.has_companions:  # the others would refuse it
                what = "puts a companion beside the update, and no plugin claims 'accompanies'"
                raise HookError.of("QRES-E702", f"plugins.{name}.privatize", what)
            update = result
        return update

    def prove(self, update: Update, round_info: RoundInfo) -> dict[str, bytes]:
        """Proofs by plugin."""
        return dict(self.calls.each("prove", update=update, round_info=round_info))

    def found(
        self, what: tuple[Hashable, ...], find: Callable[[], T], *, by: Collection[str] = ()
    ) -> T:
        """Find something that follows from ``what`` alone; a simulation does so once for all nodes.

        ``by``: the hooks that ``find`` asks, of which a simulation may know that all nodes are told
        the same. Raises what ``find`` does.
        """
        del what, by
        return find()


def _as_shown(facts: Mapping[object, object]) -> dict[str, object]:
    """The facts of a plugin's status as they are shown."""
    return {
        str(key): value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in facts.items()
    }
