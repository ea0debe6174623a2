"""The kernel: one typed method per hook, over the plugins of one node.

No other part of QRES calls a plugin. Results are checked here: a verdict missing, of another
type or cut short by an exception is a rejection; a vector of another shape is an error that names
the plugin.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, TypeVar, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import faults
from qres_core.contract.dialogue import Dialogue
from qres_core.contract.errors import (
    CompatibilityError,
    ConfigError,
    HookError,
    Problem,
    QresError,
    WireError,
)
from qres_core.contract.evidence import (
    Accusation,
    Evidence,
    Revelation,
    RevelationError,
    Standing,
)
from qres_core.contract.faults import Fault
from qres_core.contract.held_out import HeldOut, Screening
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.rounds import Outcome, OwnContributions, RoundInfo
from qres_core.contract.transport import LinkKeys, Transport
from qres_core.contract.types import (
    FULL_STANDING,
    NODE_ID_BYTES,
    Contribution,
    NodeId,
    NodeInfo,
    Update,
    Updates,
    Vector,
    check_vector,
)
from qres_core.contract.verdict import ACCEPT, UNSTATED, Blame, Decision, Verdict, reject
from qres_core.contract.wire import MAX_AUTHENTICATOR, MAX_KEYS, NUMBERS_PER_KEY, Envelope
from qres_core.kernel import inbound
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.by_products import Products, ProductSeats, ReachedError, not_once
from qres_core.kernel.chain import having
from qres_core.kernel.config import Config, SwarmConfig
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.guard import guarded
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.ranged import in_ranges
from qres_core.kernel.settings import SharedSettings, shared_settings
from qres_core.kernel.sharded import after_merge
from qres_core.kernel.slots import ALL_HOOKS
from qres_core.kernel.solver import Solution, solve

Caller = Callable[..., list[Any]]
FULL: Final = Standing()
IDS: Final = 64
"""Ids of one plugin that are told apart; what else it says is counted as ``<plugin>:other``."""
_SLOWLY: Final = 16
"""Messages over which a clock that moved away is noticed; one that was long on its way is not."""
_NOTHING: Final = OwnContributions()
_SAID_BY: Final[Mapping[str, frozenset[Fault]]] = {"replay_check": frozenset({Fault.REPLAYED})}
"""The faults of the kernel that a plugin may name, by hook. All others are the kernel's to find."""


T = TypeVar("T")


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
        self.rejections: Counter[str] = Counter()
        # seconds that this node's clock is ahead of each sender's, as its messages tell
        self.clock_offsets: dict[NodeId, float] = {}
        self._ids: dict[str, set[str]] = {}
        self._key_indices: dict[NodeId, int] = {}
        self._dimension = 0  # of the model, 0 while it is not known
        self.roster: frozenset[NodeId] = frozenset()
        self.banned: frozenset[NodeId] = frozenset()
        # In file order.
        self._callers: Mapping[str, tuple[tuple[str, Caller], ...]] = {
            hook: tuple(
                (plugin.name, guarded(getattr(plugin.manager.hook, hook)))
                for plugin in enabled
                if hook in plugin.hooks
            )
            for hook in ALL_HOOKS
        }
        # Whose proofs a contribution may have, and whether anything else may travel beside it.
        self.provers = frozenset(name for name, _caller in self._callers["prove"])
        self.has_companions = self.has("reveal") or any(
            plugin.claims.accompanies for plugin in enabled
        )
        self.signers = frozenset(name for name, _caller in self._callers["sign"])
        wrappers, outer = self._callers["wrap_aggregate"], len(after_merge(enabled))
        # In a sharded round: those called with what is merged, and those called with each shard.
        self._after_merge, self._of_shards = wrappers[:outer], wrappers[outer:]

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
        """What one example may add to a node's update, if a plugin protects single examples."""
        asked = (plugin.claims.needs.records for plugin in self.enabled)
        return next((clip for clip in asked if clip is not None), None)

    @cached_property
    def by_products(self) -> tuple[str, ...]:
        """The hooks that look at whole updates by their inner products, from the outermost."""
        return tuple(
            _seat(item.name, hook)
            for hook in ("wrap_aggregate", "aggregate")
            for item in having(self.enabled, hook)
            if item.claims.by_products
        )

    @cached_property
    def merges_in_ranges(self) -> bool:
        """Whether updates may be merged a range of coordinates at a time, with the same result."""
        return in_ranges(self.enabled)

    @property
    def opens_shards(self) -> bool:
        """Whether single updates are hidden, and committees can open sums shard by shard."""
        return self.has("reveal_shard")

    @property
    def _clipper(self) -> str:
        """The first plugin that protects single examples."""
        asking = (plugin.name for plugin in self.enabled if plugin.claims.needs.records is not None)
        return next(asking, "")

    def refusals(
        self, members: Collection[NodeId], byzantine: int, quorum: int
    ) -> tuple[Problem, ...]:
        """What speaks against these members, where a promise of the plugins would no longer hold.

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

    # ── calling ───────────────────────────────────────────────────────────────────────────────

    def _call(self, name: str, hook: str, caller: Caller, arguments: Mapping[str, Any]) -> Any:
        """The single result of one plugin's hook; ``None`` if it returned nothing."""
        try:
            results = caller(**arguments)
        except QresError as error:
            error.add_note(f"in hook {hook!r} of plugin {name!r}")
            raise
        except Exception as error:
            what = f"{type(error).__name__}: {error}"
            raise HookError.of("QRES-E701", f"plugins.{name}.{hook}", what) from error
        return results[0] if results else None

    def _wrong(self, name: str, hook: str, expected: str, got: object) -> HookError:
        what = f"expected {expected}, got {type(got).__name__}"
        return HookError.of("QRES-E702", f"plugins.{name}.{hook}", what)

    def _verdict(self, hook: str, arguments: Mapping[str, Any]) -> tuple[Verdict, str]:
        """The first verdict that is not an acceptance, with its author."""
        for name, caller in self._callers[hook]:
            verdict = self._asked(name, hook, caller, arguments)
            if verdict is not ACCEPT:
                return verdict, name
        return ACCEPT, ""

    def _asked(self, name: str, hook: str, caller: Caller, arguments: Mapping[str, Any]) -> Verdict:
        try:
            results = caller(**arguments)
        except Exception as error:  # noqa: BLE001 - a broken defence must refuse, not crash
            self._note(name, faults.raised(hook, error))
            return reject(_worded(hook) + faults.HOOK_RAISED)
        return _checked(hook, results[0] if len(results) == 1 else None)

    def has(self, hook: str) -> bool:
        """Whether any enabled plugin implements the hook."""
        return bool(self._callers[hook])

    # ── identity ──────────────────────────────────────────────────────────────────────────────

    def identity(self, seed: bytes | None) -> NodeId | None:
        """Who the node is, or ``None`` where no plugin says so."""
        for name, caller in self._callers["identity"]:
            result = self._call(name, "identity", caller, {"seed": seed})
            if type(result) is not bytes or len(result) != NODE_ID_BYTES:
                raise self._wrong(name, "identity", f"{NODE_ID_BYTES} bytes", result)
            return result
        return None

    def key_index(self, node_id: NodeId) -> int:
        """How many keys a node had before its present one; 0 where no plugin says. Asked once."""
        known = self._key_indices.get(node_id)
        if known is None:
            known = self._key_indices[node_id] = self._asked_key_index(node_id)
        return known

    def is_of_old_key(self, envelope: Envelope) -> bool:
        """Whether its author has replaced the key that signed it since.

        Nobody can tell any more whether it is authentic, so who hands it on is not to blame.
        """
        return envelope.sequence // NUMBERS_PER_KEY < self.key_index(envelope.sender)

    def _asked_key_index(self, node_id: NodeId) -> int:
        for name, caller in self._callers["key_index"]:
            result = self._call(name, "key_index", caller, {"node_id": node_id})
            if type(result) is not int or not 0 <= result < MAX_KEYS:
                raise self._wrong(name, "key_index", f"an integer in 0..{MAX_KEYS - 1}", result)
            return result
        return 0

    def link_keys(self) -> LinkKeys | None:
        """What proves identities on a connection, or ``None`` where no plugin has it."""
        for name, caller in self._callers["link_keys"]:
            result = self._call(name, "link_keys", caller, {})
            if type(result) is not LinkKeys:
                raise self._wrong(name, "link_keys", "LinkKeys", result)
            return result
        return None

    def credential(self) -> bytes:
        """What the node shows a neighbour that connects; empty where no plugin has anything."""
        for name, caller in self._callers["credential"]:
            result = self._call(name, "credential", caller, {})
            if type(result) is not bytes or len(result) > MAX_AUTHENTICATOR:
                expected = f"at most {MAX_AUTHENTICATOR} bytes"
                raise self._wrong(name, "credential", expected, result)
            return result
        return b""

    def admit(self, peer: NodeId, credential: bytes) -> Verdict:
        """Whether a neighbour may connect: a member, not banned, whom every plugin admits."""
        if peer not in self.roster:
            return reject(str(Fault.UNKNOWN_SENDER))
        if self.standing(peer).banned:
            return reject(str(Fault.BANNED))
        return self._verdict("admit", {"peer": peer, "credential": credential})[0]

    def approved(self, digest: bytes, approval: bytes, now: float) -> bool:
        """Whether the swarm's authority approved a change of the members.

        False where no plugin knows an authority. ``digest``: of the change, 32 bytes.
        """
        arguments = {"digest": digest, "approval": approval, "now": now}
        return self.has("approve") and self._verdict("approve", arguments)[0] is ACCEPT

    def authority(self, now: float) -> Callable[[bytes, bytes], bool] | None:
        """Whether the authority approved a change, by its digest; ``None`` where members decide."""
        if self.swarm.authority != "ca":
            return None
        return lambda digest, approval: self.approved(digest, approval, now)

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def setup(self, node_info: NodeInfo) -> None:
        """Run ``setup`` of every plugin in file order, if :meth:`preflight` finds nothing.

        Raises CompatibilityError or ConfigError: what :meth:`preflight` found. Raises
        PluginError: QRES-E210 where a plugin claims something else than before. Raises
        QresError: what a plugin's ``setup`` refuses.
        """
        if problems := self.preflight(node_info):
            of_file = any(not problem.code.startswith("QRES-E3") for problem in problems)
            raise (ConfigError if of_file else CompatibilityError)(problems)
        self.enter(frozenset(node_info.roster))
        node_info = self._told(node_info)
        for name, caller in self._callers["setup"]:
            self._call(name, "setup", caller, {"node_info": node_info})
        self._key_indices.clear()
        if self.has("key_index"):
            for node_id in self.roster:  # an error comes now, and not with a message
                self.key_index(node_id)
        for plugin in self.enabled:
            plugin.keeps_its_word()

    def preflight(self, node_info: NodeInfo) -> tuple[Problem, ...]:
        """What would keep the plugins from being set up at this node, as far as reading shows it.

        A start and whoever only wants to know whether there could be one ask this alike; nothing is
        written or kept. Returns QRES-E311 where a plugin validates and the node's trainer does not,
        QRES-E318 where one protects single examples and the trainer does not clip them, and what
        plugins say. Raises PluginError: QRES-E206 for a plugin that does not say it properly.
        """
        found: list[Problem] = []
        judges = self._callers["screen"] or self._callers["endorse"]
        if judges and not node_info.validates:
            what = "judges updates by held-out examples, but the node's trainer keeps none"
            fix = "give the trainer validate(vector), or set trainer.task.held_out"
            found.append(Problem("QRES-E311", f"plugins.{judges[0][0]}", what, fix))
        if self.record_clip not in (None, node_info.clipped):
            what = "protects single examples, but the node's trainer does not clip them as it asks"
            fix = "wrap the trainer with by_record before the node starts"
            found.append(Problem("QRES-E318", f"plugins.{self._clipper}", what, fix))
        told = self._told(node_info)
        said = [problem for plugin in self.enabled for problem in plugin.preflight(told)]
        known = {problem.where for problem in found}
        return (*found, *(problem for problem in said if problem.where not in known))

    def _told(self, node_info: NodeInfo) -> NodeInfo:
        """What plugins are told of a node, with what was solved."""
        found = self.solution
        return attrs.evolve(
            node_info,
            visibility=found.visibility,
            colluding=found.colluding,
            rows=found.rows,
            noised=found.noised,
        )

    def enter(self, roster: frozenset[NodeId], banned: frozenset[NodeId] = frozenset()) -> None:
        """Judge by these members from now on; called when a height begins, before its round opens.

        ``roster``: the members of the height; ``banned``: those of them that the swarm agreed to
        ban, whatever this node's reputation plugin thinks of them. Until the first call the roster
        of ``setup`` counts, and nobody is banned by agreement.
        """
        self.roster, self.banned = roster, banned

    def teardown(self) -> None:
        """Run ``teardown`` of every plugin in reverse order; errors come together at the end."""
        errors: list[Exception] = []
        for name, caller in reversed(self._callers["teardown"]):
            try:
                self._call(name, "teardown", caller, {})
            except QresError as error:
                errors.append(error)
        if errors:
            msg = "teardown failed"
            raise ExceptionGroup(msg, errors)

    def remember(self, *, agreed: bool) -> dict[str, bytes]:
        """What plugins keep from round to round, by plugin, of those that keep something.

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
        """What the plugins have to show, by plugin; never raises."""
        shown: dict[str, dict[str, object]] = {}
        for name, caller in self._callers["status"]:
            try:
                result = self._call(name, "status", caller, {})
                if not isinstance(result, Mapping):
                    wrong = self._wrong(name, "status", "a mapping", result)
                    shown[name] = {"error": str(wrong.problems[0])}
                    continue
                shown[name] = guarded(_as_shown)(cast("Mapping[object, object]", result))
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
        arguments = {"round_info": round_info, "contributed": contributed}
        dialogues: dict[str, Dialogue] = {}
        for name, caller in self._callers["round_opened"]:
            result = self._call(name, "round_opened", caller, arguments)
            if result is None:
                continue
            if not isinstance(result, Dialogue) or isinstance(result, type):
                raise self._wrong(name, "round_opened", "a Dialogue or None", result)
            dialogues[name] = result
        return dialogues

    def round_closed(self, outcome: Outcome) -> None:
        """Tell every plugin how the round ended."""
        for name, caller in self._callers["round_closed"]:
            self._call(name, "round_closed", caller, {"outcome": outcome})

    def transport(self, node_info: NodeInfo) -> Transport:
        """The transport of the node."""
        ((name, caller),) = self._callers["transport"]
        arguments = {
            "node_info": node_info,
            "admission": self.admit,
            "credential": self.credential,
            "link_keys": self.link_keys(),
        }
        result = self._call(name, "transport", caller, arguments)
        if not isinstance(result, Transport) or isinstance(result, type):
            raise self._wrong(name, "transport", "a Transport", result)
        return result

    # ── outbound ──────────────────────────────────────────────────────────────────────────────

    def sign(self, envelope: Envelope) -> Envelope:
        """The envelope with an authenticator of every signing plugin."""
        auth: dict[str, bytes] = {}
        for name, caller in self._callers["sign"]:
            result = self._call(name, "sign", caller, {"envelope": envelope})
            if type(result) is not bytes or len(result) > MAX_AUTHENTICATOR:
                raise self._wrong(name, "sign", f"at most {MAX_AUTHENTICATOR} bytes", result)
            auth[name] = result
        return envelope.with_auth(auth) if auth else envelope

    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """The update after the whole chain."""
        for name, caller in self._callers["privatize"]:
            arguments = {"update": update, "round_info": round_info}
            result = self._call(name, "privatize", caller, arguments)
            if type(result) is not Update or result.vector.size != round_info.dimension:
                raise self._wrong(name, "privatize", "an Update of the same dimension", result)
            if result.companions and not self.has_companions:  # the others would refuse it
                what = "puts a companion beside the update, and no plugin claims 'accompanies'"
                raise HookError.of("QRES-E702", f"plugins.{name}.privatize", what)
            update = result
        return update

    def prove(self, update: Update, round_info: RoundInfo) -> dict[str, bytes]:
        """Proofs by plugin."""
        proofs: dict[str, bytes] = {}
        for name, caller in self._callers["prove"]:
            arguments = {"update": update, "round_info": round_info}
            result = self._call(name, "prove", caller, arguments)
            if type(result) is not bytes:
                raise self._wrong(name, "prove", "bytes", result)
            proofs[name] = result
        return proofs

    # ── inbound ───────────────────────────────────────────────────────────────────────────────

    def check_beside(self, proofs: Collection[str], companions: Collection[str]) -> None:
        """Refuse what no plugin of the swarm sends: a liar would fill the memory of all with it.

        ``proofs`` and ``companions``: of a contribution, by name. Raises WireError: QRES-E404.
        """
        strange = sorted({*proofs} - self.provers)
        kind = "proofs"
        if not strange and not self.has_companions:
            strange, kind = sorted(companions), "companions"
        if strange:
            what = f"{strange[0]!r:.60} is there, and no plugin of this swarm sends it"
            raise WireError.of("QRES-E404", f"payload.{kind}", what)

    def inbound(
        self, frame: bytes, source: NodeId, now: float, waited: float = 0.0
    ) -> Envelope | Rejection:
        """The whole path of one incoming frame up to its content.

        See :func:`qres_core.kernel.inbound.take`, where the order of checks and blame are.
        ``frame``: bytes as delivered; ``source``: who answers for them: the author, where the
        transport proves who sent a frame first, else the neighbour that delivered it; ``now``: this
        node's clock, seconds; ``waited``: seconds since the frame was announced, where it was
        pulled. Returns the envelope, or why not. Never raises for what the frame holds.
        """
        taken = inbound.take(self, frame, source, now, waited)
        if isinstance(taken, Envelope):
            self._compare_clocks(taken, now - waited)
        return taken

    def read(self, frame: bytes) -> Envelope:
        """:meth:`Envelope.from_bytes` with the swarm's limit."""
        return Envelope.from_bytes(frame, max_bytes=self.swarm.max_message_bytes)

    def found(
        self, what: tuple[Hashable, ...], find: Callable[[], T], *, by: Collection[str] = ()
    ) -> T:
        """What follows from ``what`` alone. A simulation finds it once for all of its nodes.

        ``by``: the hooks that ``find`` asks, of which a simulation may know that all nodes are told
        the same. Raises what ``find`` does.
        """
        del what, by
        return find()

    def _compare_clocks(self, envelope: Envelope, now: float) -> None:
        """Note how far this node's clock is from a sender's: at most the way took the rest."""
        offset = now - envelope.time_ms / 1000
        before = self.clock_offsets.get(envelope.sender, offset)
        nearer = abs(offset) <= abs(before)
        self.clock_offsets[envelope.sender] = (
            offset if nearer else before + (offset - before) / _SLOWLY
        )

    def authentic(
        self, envelope: Envelope, now: float, members: Collection[NodeId] | None = None
    ) -> bool:
        """Whether a message quoted inside another was made by its sender; see :meth:`quoted`."""
        return self.quoted(envelope, now, members) is ACCEPT

    def quoted(
        self, envelope: Envelope, now: float, members: Collection[NodeId] | None = None
    ) -> Verdict:
        """The verdict on who made a message quoted inside another.

        ``members``: who was a member at the height that the message belongs to; left out, the
        present members. What expired or was revoked since does not count, see
        :func:`qres_core.kernel.inbound.quoted`. It blames nobody where another honest node may find
        otherwise.
        """
        known = self.roster if members is None else members
        return inbound.quoted(self, envelope, now, known)

    def authenticate(
        self, envelope: Envelope, source: NodeId, now: float, *, quoted: bool = False
    ) -> tuple[Verdict, str]:
        """The first refusing verdict on who made a message, and its author.

        ``quoted``: whether another message holds it; then it is not asked who may take part now.
        """
        arguments = {"envelope": envelope, "source": source, "now": now, "quoted": quoted}
        return self._verdict("authenticate", arguments)

    def takes_part(self, envelope: Envelope, now: float) -> bool:
        """Whether the author of a message that somebody quotes may take part now.

        A quote is no way in for who was revoked. Whoever hands it on may not have heard of that.
        """
        return self.authenticate(envelope, envelope.sender, now)[0] is ACCEPT

    def replay_check(self, envelope: Envelope, now: float) -> tuple[Verdict, str]:
        """The first refusing verdict on whether a message is new, and its author."""
        return self._verdict("replay_check", {"envelope": envelope, "now": now})

    def refuse(
        self, reason: str, blame: Blame, subject: NodeId | None, source: str, round_number: int
    ) -> Rejection:
        """Count a rejection and hold it against whom it blames.

        ``reason``: a :class:`Fault`, or an id of the plugin ``source``; ``blame``: who is to blame,
        but nobody for what another honest node may see otherwise; ``subject``: the node the blame
        falls on, or ``None``; ``source``: plugin that refuses, or ``"kernel"``.
        """
        fact = reason if isinstance(reason, Fault) else self._fact(source, reason)
        self.rejections[fact] += 1
        if isinstance(fact, Fault) and fact.own_view:
            blame = Blame.NOBODY
        if blame is Blame.NOBODY:
            subject = None
        if subject is not None:
            self.observe(Evidence(subject, fact, source, round_number))
        return Rejection(fact, blame, subject, source)

    def _fact(self, plugin: str, own: str) -> str:
        """What a plugin found, named after it. However many ids it makes up, few are kept."""
        known = self._ids.setdefault(plugin, set())
        if own not in known and len(known) >= IDS:
            own = "other"
        known.add(own)
        return faults.of_plugin(plugin, own)

    def _note(self, plugin: str, own: str) -> None:
        self.rejections[self._fact(plugin, own)] += 1

    def verify(self, contribution: Contribution, round_info: RoundInfo) -> tuple[Verdict, str]:
        """The first refusing verdict on a contribution, and its author."""
        return self._verdict("verify", {"contribution": contribution, "round_info": round_info})

    def verify_shard(
        self, contribution: Contribution, shard: Vector, start: int, round_info: RoundInfo
    ) -> tuple[Verdict, str]:
        """The first refusing verdict on a shard of a contribution, and its author.

        Accepted where single updates are hidden: a masked shard tells nothing of what is proved.
        ``shard``: int32, the coordinates from ``start`` on.
        """
        if self.opens_shards:
            return ACCEPT, ""
        arguments = {
            "contribution": contribution,
            "shard": shard,
            "start": start,
            "round_info": round_info,
        }
        return self._verdict("verify_shard", arguments)

    def shard_run(self, dimension: int) -> int:
        """Coordinates in a row that no shard of a model may part, at least 1.

        Raises PluginError: QRES-E206, see :meth:`Enabled.shard_run`.
        """
        if self.opens_shards:
            return 1
        checking = (plugin for plugin in self.enabled if "verify_shard" in plugin.hooks)
        return math.lcm(*(plugin.shard_run(dimension) for plugin in checking))

    def verify_all(
        self, contributions: Sequence[Contribution], round_info: RoundInfo
    ) -> list[tuple[Verdict, str]]:
        """For each contribution the first refusing verdict and its author, or an acceptance.

        What a plugin can check together is checked together, but for what another refused before.
        """
        found: list[tuple[Verdict, str]] = [(ACCEPT, "")] * len(contributions)
        together = dict(self._callers["verify_all"])
        for name, caller in self._callers["verify"]:
            left = [at for at, (verdict, _name) in enumerate(found) if verdict is ACCEPT]
            chosen = tuple(contributions[at] for at in left)
            verdicts = None
            if name in together and len(left) > 1:
                verdicts = self._together(name, together[name], chosen, round_info)
            if verdicts is None:
                asked = partial(self._asked, name, "verify", caller)
                verdicts = [
                    asked({"contribution": item, "round_info": round_info}) for item in chosen
                ]
            for at, verdict in zip(left, verdicts, strict=True):
                if verdict is not ACCEPT:
                    found[at] = verdict, name
        return found

    def _together(
        self,
        name: str,
        caller: Caller,
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> list[Verdict] | None:
        """``None`` for a hook that fails: one bad contribution must not take others with it."""
        try:
            results = caller(contributions=contributions, round_info=round_info)
        except Exception as error:  # noqa: BLE001 - each is asked for by itself instead
            self._note(name, faults.raised("verify_all", error))
            return None
        answers = results[0] if len(results) == 1 else None
        if not isinstance(answers, (list, tuple)):
            return None
        verdicts = [_checked("verify_all", answer) for answer in cast("Sequence[object]", answers)]
        return verdicts if len(verdicts) == len(contributions) else None

    def standing(self, sender: NodeId) -> Standing:
        """What the reputation plugin says of a node; full standing without one.

        Whom the swarm agreed to ban is banned, whatever the plugin says.
        """
        if sender in self.banned:
            return Standing(0, banned=True)
        for name, caller in self._callers["reputation"]:
            try:
                results = caller(sender=sender)
            except Exception as error:  # noqa: BLE001 - a broken gate must stay closed
                self._note(name, faults.raised("reputation", error))
                return Standing(0, banned=True)
            if len(results) == 1 and type(results[0]) is Standing:
                return results[0]
            self._note(name, "no-standing")
            return Standing(0, banned=True)
        return FULL

    def observe(self, evidence: Evidence) -> None:
        """Tell every observing plugin."""
        for name, caller in self._callers["observe"]:
            self._call(name, "observe", caller, {"evidence": evidence})

    # ── the end of a round ────────────────────────────────────────────────────────────────────

    def revealable(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> tuple[Contribution, ...]:
        """Those of the contributions that every plugin would have revealed together, in order.

        All of them, if nothing speaks against that; none, if nothing can be revealed. Raises
        HookError: QRES-E701 or QRES-E702. Raises QresError: what a plugin refused.
        """
        while True:  # what one plugin leaves out may matter to another
            kept: tuple[Contribution, ...] = contributions
            for name, caller in self._callers["revealable"]:
                if not kept:
                    break
                arguments = {"contributions": kept, "round_info": round_info}
                result: object = self._call(name, "revealable", caller, arguments)
                named = _as_tuple(result)
                if not {item.sender for item in kept}.issuperset(named):
                    expected = "a tuple of senders of the contributions"
                    raise self._wrong(name, "revealable", expected, result)
                kept = tuple(item for item in kept if item.sender in named)
            if len(kept) == len(contributions):
                return kept
            contributions = kept

    def reveal(
        self,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Updates:
        """The updates after the ``reveal`` chain, last ``privatize`` plugin first.

        ``observe`` is told of the evidence that comes to light, once the whole chain ran, or a
        plugin found nothing to merge and says who is to blame.
        """
        against: list[tuple[str, Accusation]] = []
        for name, caller in reversed(self._callers["reveal"]):
            arguments = {
                "updates": updates,
                "contributions": contributions,
                "round_info": round_info,
            }
            try:
                result = self._call(name, "reveal", caller, arguments)
            except RevelationError as error:
                against += ((name, found) for found in self._accusations(name, error.against))
                self._tell(against, round_info)
                raise
            if type(result) is Revelation:
                against += ((name, found) for found in self._accusations(name, result.against))
                result = result.updates
            same = result is updates  # as it came, whatever stands in for vectors in it
            if type(result) is not Updates or not (
                same or result.dimension == round_info.dimension
            ):
                raise self._wrong(name, "reveal", "Updates of the same dimension", result)
            updates = result
        self._tell(against, round_info)
        return updates

    def reveal_shard(
        self,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        start: int,
        round_info: RoundInfo,
    ) -> NDArray[np.int64]:
        """The exact sums of a shard of the agreed set, from the plugin that hides single updates.

        ``updates``: int32, shape ``(n, c)``, the coordinates from ``start`` on. Returns int64,
        shape ``(rows, c)``. Raises QresError: what the plugin refused. Raises HookError: QRES-E701
        or QRES-E702.
        """
        name, caller = self._callers["reveal_shard"][0]
        arguments = {
            "updates": updates,
            "contributions": contributions,
            "start": start,
            "round_info": round_info,
        }
        result: object = self._call(name, "reveal_shard", caller, arguments)
        found = getattr(result, "dtype", None), getattr(result, "shape", (0,))[1:]
        if found != (np.int64, (updates.dimension,)):
            expected = "sums of the shard, int64"
            raise self._wrong(name, "reveal_shard", expected, result)
        return cast("NDArray[np.int64]", result)

    def check_unseen(
        self,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> None:
        """:meth:`reveal` where no plugin hides anything, and vectors are with committees.

        ``updates``: with a single zero in the place of each vector. Raises as :meth:`reveal`, and
        HookError: QRES-E702 for a plugin that changed updates without a look at them.
        """
        if self.reveal(updates, contributions, round_info) is not updates:
            names = "/".join(name for name, _caller in self._callers["reveal"])
            raise self._wrong(names, "reveal", "the updates that it claims not to look at", updates)

    def _tell(self, against: Iterable[tuple[str, Accusation]], round_info: RoundInfo) -> None:
        for name, accusation in against:
            self.observe(self.evidence(name, accusation, round_info.number))

    def evidence(self, name: str, accusation: Accusation, round_number: int) -> Evidence:
        """What a plugin found out about a node, named after the plugin."""
        fact = self._fact(name, accusation.fact)
        return Evidence(accusation.subject, fact, name, round_number)

    def _accusations(self, name: str, against: object) -> tuple[Accusation, ...]:
        found = _as_tuple(against)
        made = tuple(
            found_out
            for found_out in found
            if type(found_out) is Accusation and found_out.subject in self.roster
        )
        if len(made) != len(found):
            raise self._wrong(name, "reveal", "accusations of members of the roster", found)
        return made

    def aggregate(
        self, updates: Updates, round_info: RoundInfo, held_out: HeldOut | None = None
    ) -> Vector:
        """One update from many: the rule inside its wrappers.

        ``updates``: int32, shape ``(n, d)``; ``held_out``: the node's held-out examples, for
        wrappers that ask for them. Returns int32, shape ``(d,)``. Raises QresError: what the rule
        refused. Raises HookError: QRES-E701 or QRES-E702.
        """
        wrappers = self._callers["wrap_aggregate"]
        return self._chain(wrappers, round_info, held_out)(updates)

    def aggregate_shard(
        self, updates: Updates, round_info: RoundInfo, products: Products = ()
    ) -> Vector:
        """What a shard merges to: the rule inside the wrappers that work on shards.

        ``updates``: int32, shape ``(n, c)``; ``round_info``: with ``c`` for its dimension;
        ``products``: what each of the hooks :attr:`by_products` is given. Returns int32, shape
        ``(c,)``. Raises as :meth:`aggregate`.
        """
        return self._chain(self._of_shards, round_info, None, products)(updates)

    def wrap_merged(
        self,
        merged: Vector,
        updates: Updates,
        round_info: RoundInfo,
        held_out: HeldOut | None = None,
    ) -> Vector:
        """What the wrappers that look at no update make of what shards merged to.

        ``merged``: int32, shape ``(d,)``; ``updates``: with a single zero in the place of each
        vector. Raises as :meth:`aggregate`.
        """

        def step(_updates: Updates) -> Vector:
            return merged

        chain: Callable[[Updates], Vector] = step
        for name, caller in reversed(self._after_merge):
            chain = self._wrapped(name, caller, chain, held_out, round_info, unseen=updates)
        return chain(updates)

    def _chain(
        self,
        wrappers: Sequence[tuple[str, Caller]],
        round_info: RoundInfo,
        held_out: HeldOut | None,
        products: Products | None = None,
    ) -> Callable[[Updates], Vector]:
        """The rule inside wrappers, the first of them outermost."""
        ((rule, rule_caller),) = self._callers["aggregate"]
        seats = None if products is None else ProductSeats(self.by_products, products)

        def innermost(inner: Updates) -> Vector:
            arguments = {"updates": inner, "round_info": round_info}
            result = self._call(rule, "aggregate", rule_caller, arguments)
            return self._merged(rule, "aggregate", result, round_info)

        step: Callable[[Updates], Vector] = innermost
        if seats is not None:
            step = seats.before(_seat(rule, "aggregate"), step)
        for name, caller in reversed(wrappers):
            step = self._wrapped(name, caller, step, held_out, round_info)
            if seats is not None:
                step = seats.before(_seat(name, "wrap_aggregate"), step)
        return step

    def compared(self, updates: Updates, round_info: RoundInfo, products: Products) -> Updates:
        """The updates as the next hook gets them that is :attr:`by_products`.

        ``updates``: a range of coordinates of the updates as they came; ``products``: what the
        hooks before it are given. Raises as :meth:`aggregate`.
        """
        try:
            self.aggregate_shard(updates, round_info, products)
        except ReachedError as reached:
            return reached.updates
        raise not_once(self.by_products[len(products)])

    def screen(
        self, updates: Updates, held_out: HeldOut, round_info: RoundInfo
    ) -> tuple[Screening, tuple[Evidence, ...]]:
        """What a proposer thinks of what it could propose, by every screening plugin together.

        ``observe`` is not told here of the evidence, which is one fact for each sender accused.
        Raises HookError: QRES-E701 or QRES-E702. Raises QresError: what a plugin refused.
        """
        named: dict[NodeId, Accusation] = {}
        evidence: list[Evidence] = []
        shares: dict[NodeId, int] = {}
        checks: list[tuple[str, Callable[[Vector], None]]] = []
        arguments = {"updates": updates, "held_out": held_out, "round_info": round_info}
        senders = set(updates.senders)
        for name, caller in self._callers["screen"]:
            result = self._call(name, "screen", caller, arguments)
            if (
                type(result) is not Screening
                or not all(
                    type(found) is Accusation and found.subject in senders
                    for found in result.against
                )
                or not senders.issuperset(result.shares)
            ):
                raise self._wrong(name, "screen", "a Screening of senders of the updates", result)
            for found in result.against:
                if found.subject not in named:
                    named[found.subject] = found
                    evidence.append(self.evidence(name, found, round_info.number))
            for sender, share in result.shares.items():
                shares[sender] = (shares.get(sender, FULL_STANDING) * share) // FULL_STANDING
            if result.check is not None:
                checks.append((name, result.check))

        def check(merged: Vector) -> None:
            for name, refuse in checks:
                self._call(name, "screen", _shown, {"refuse": refuse, "merged": merged})

        made = Screening(tuple(named.values()), shares, check if checks else None)
        return made, tuple(evidence)

    def endorse(
        self, updates: Updates, merged: Vector, held_out: HeldOut, round_info: RoundInfo
    ) -> tuple[Verdict, str]:
        """The first refusing verdict on a proposed set, and its author."""
        arguments = {
            "updates": updates,
            "merged": merged,
            "held_out": held_out,
            "round_info": round_info,
        }
        return self._verdict("endorse", arguments)

    def _wrapped(
        self,
        name: str,
        caller: Caller,
        proceed: Callable[[Updates], Vector],
        held_out: HeldOut | None,
        round_info: RoundInfo,
        *,
        unseen: Updates | None = None,
    ) -> Callable[[Updates], Vector]:
        def checked(inner: Updates) -> Vector:
            if unseen is not None and inner is not unseen:
                expected = "proceed to be given the updates that it claims not to look at"
                raise self._wrong(name, "wrap_aggregate", expected, inner)
            if unseen is None and (
                type(inner) is not Updates or inner.dimension != round_info.dimension
            ):
                expected = "proceed to be given Updates of the same dimension"
                raise self._wrong(name, "wrap_aggregate", expected, inner)
            return proceed(inner)

        def run(updates: Updates) -> Vector:
            arguments = {
                "proceed": checked,
                "updates": updates,
                "held_out": held_out,
                "round_info": round_info,
            }
            result = self._call(name, "wrap_aggregate", caller, arguments)
            return self._merged(name, "wrap_aggregate", result, round_info)

        return run

    def _merged(self, name: str, hook: str, result: object, round_info: RoundInfo) -> Vector:
        where = f"plugins.{name}.{hook}"
        try:
            return check_vector(result, where, dimension=round_info.dimension)
        except QresError as error:
            raise HookError.of("QRES-E702", where, error.problems[0].what) from error


def _seat(name: str, hook: str) -> str:
    return f"plugins.{name}.{hook}"


def _as_tuple(result: object) -> tuple[object, ...]:
    """What a plugin gave, if it is a tuple; with nothing that is allowed in it otherwise."""
    return cast("tuple[object, ...]", result) if type(result) is tuple else (None,)


def _shown(refuse: Callable[[Vector], None], merged: Vector) -> list[Any]:
    """Show a plugin what its choice would merge to; it raises what it refuses that with."""
    refuse(merged)
    return []


def _checked(hook: str, verdict: object) -> Verdict:
    """What a plugin gave, as a verdict; whatever is none, or not well made, rejects."""
    if verdict is ACCEPT:
        return ACCEPT
    if type(verdict) is Verdict and type(verdict.blame) is Blame:
        if verdict.decision is Decision.ACCEPT:
            return ACCEPT if type(verdict.reason) is str else _no_verdict(hook)
        if type(verdict.reason) is str and verdict.reason == UNSTATED:
            return attrs.evolve(verdict, reason="no-reason")
        if _may_say(hook, verdict.reason):
            return verdict
    return _no_verdict(hook)


def _may_say(hook: str, reason: object) -> bool:
    """Whether a plugin's verdict may give this reason: an id of its own, or a fault of its hook."""
    if isinstance(reason, Fault):
        return reason in _SAID_BY.get(hook, ())
    return type(reason) is str and faults.is_own_id(reason)


def _no_verdict(hook: str) -> Verdict:
    return reject(f"{_worded(hook)}-gave-no-verdict")


def _worded(hook: str) -> str:
    return hook.replace("_", "-")


def _as_shown(facts: Mapping[object, object]) -> dict[str, object]:
    """The facts of a plugin's status as they are shown."""
    return {
        str(key): value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in facts.items()
    }
