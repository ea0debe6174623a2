"""The hooks: seven families and the life cycle.

A plugin is an attrs class whose fields are its options and whose methods marked ``@hookimpl`` are
its hooks. Hooks are plain functions. A hook may ask for any subset of its arguments, by name.
Plugins run in the order of their tables in the TOML file.
"""

# pyright: reportReturnType=false
# Specifications are signatures and documentation; their bodies never run.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from qres_core.contract.dialogue import Dialogue
    from qres_core.contract.evidence import Evidence, Revelation, Standing
    from qres_core.contract.held_out import HeldOut, Screening
    from qres_core.contract.rounds import Outcome, RoundInfo
    from qres_core.contract.transport import LinkKeys, Transport
    from qres_core.contract.types import (
        Contribution,
        NodeId,
        NodeInfo,
        Update,
        Updates,
        Vector,
    )
    from qres_core.contract.verdict import Verdict
    from qres_core.contract.wire import Envelope

PROJECT = "qres"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a plugin as the implementation of the hook of that name."""

hookspec = pluggy.HookspecMarker(PROJECT)


class HookSpecs:
    """The specification of every hook. Never instantiated."""

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    @hookspec
    def setup(self, node_info: NodeInfo) -> None:
        """Prepare the plugin for the node it runs in.

        When: once, after every plugin is registered and the solver accepted the configuration,
            before the transport starts.
        Slot: life cycle; any number, in file order.

        Args:
            node_info: identity, roster, data folder of the node.
        Returns: nothing.
        Raises: any error stops the node; raise a :class:`QresError` with a fix.
        Example::

            @attrs.define
            class Journal:
                @hookimpl
                def setup(self, node_info):
                    self._swarm = node_info.swarm
        """

    @hookspec
    def teardown(self) -> None:
        """Let go of what ``setup`` took.

        When: once, when the node stops, also after an error.
        Slot: life cycle; any number, in reverse file order.
        Args: none.
        Returns: nothing.
        Raises: errors are collected and reported after all plugins were torn down.
        Example::

            @attrs.define
            class Journal:
                @hookimpl
                def teardown(self):
                    self._file.close()
        """

    @hookspec
    def round_opened(self, round_info: RoundInfo) -> Dialogue | None:
        """A round begins; optionally open a dialogue with the peers.

        When: at the start of every round, before training.
        Slot: life cycle; any number, in file order.

        Args:
            round_info: number, model digest, dimension, scale, roster, quorum.
        Returns: a :class:`Dialogue` for a plugin that needs messages of its own, else ``None``.
        Raises: any error aborts the round.
        Example::

            @attrs.define
            class Greeter:
                @hookimpl
                def round_opened(self, round_info):
                    return GreetingDialogue(round_info.roster)
        """

    @hookspec
    def round_closed(self, outcome: Outcome) -> None:
        """A round ended, with a new model or with nothing changed.

        When: once for every ``round_opened``, except for a round in which the node stops.
        Slot: life cycle; any number, in file order.

        Args:
            outcome: status, digest of the model after the round, members, reason.
        Returns: nothing.
        Raises: any error stops the node.
        Example::

            @attrs.define
            class Counter:
                closed: int = attrs.field(default=0, init=False)

                @hookimpl
                def round_closed(self, outcome):
                    self.closed += outcome.status is RoundStatus.CLOSED
        """

    @hookspec
    def status(self) -> Mapping[str, object]:
        """Say what the plugin has to show of itself.

        When: whenever somebody asks the node how it is, and after every round of a simulation.
            Must not change state.
        Slot: life cycle; any number, in file order.
        Args: none.
        Returns: a mapping of names to numbers, text or booleans. A plugin that spends a privacy
            budget shows ``epsilon``, what is spent so far, and ``epsilon_budget``.
        Raises: an error is shown in place of the result.
        Example::

            @attrs.define
            class Counter:
                closed: int = attrs.field(default=0, init=False)

                @hookimpl
                def status(self):
                    return {"closed": self.closed}
        """

    # ── transport ─────────────────────────────────────────────────────────────────────────────

    @hookspec
    def transport(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
        link_keys: LinkKeys | None,
    ) -> Transport:
        """Make the object that carries frames.

        When: once, after ``setup``.
        Slot: transport; exactly one.

        Args:
            node_info: identity and roster of the node.
            admission: ask it about every neighbour that connects, with the identity the transport
                proved and the credential it showed; refuse the connection unless it accepts.
            credential: what to show a neighbour that connects; ask each time, it may be renewed.
            link_keys: the keys that prove identities on a connection, from the hook of that name;
                ``None`` where no plugin has any.
        Returns: a :class:`Transport`. The hook itself is a plain function.
        Raises: any error stops the node.
        Example::

            @attrs.frozen
            class Loopback:
                port: int = 4001

                @hookimpl
                def transport(self, node_info):
                    return LoopbackTransport(node_info.node_id, self.port)
        """

    # ── authenticate ──────────────────────────────────────────────────────────────────────────

    @hookspec
    def sign(self, envelope: Envelope) -> bytes:
        """Authenticate an outgoing message.

        When: for every message this node sends, once it is complete but for ``auth``.
        Slot: authenticate, outbound half; one or more (none only with ``swarm.insecure``).
            The result travels in ``envelope.auth`` under the plugin's name.

        Args:
            envelope: sign ``envelope.signing_digest`` (32 bytes, domain-separated, covers swarm,
                kind, round, model, sender, sequence, time and payload).
        Returns: the authenticator, at most 4096 bytes.
        Raises: any error stops the message and the round.
        Example::

            @attrs.frozen
            class Mac:
                key_hex: str

                @hookimpl
                def sign(self, envelope):
                    key = bytes.fromhex(self.key_hex)
                    return hmac.digest(key, envelope.signing_digest, "sha256")
        """

    @hookspec
    def authenticate(self, envelope: Envelope, source: NodeId, now: float) -> Verdict:
        """Decide whether the claimed sender made the message and may take part.

        When: for every incoming message whose form, swarm and sender's name are right and whose
            source is not banned, before every other check by a plugin; and again for messages
            quoted inside others (votes in a certificate).
        Slot: authenticate, inbound half; one or more (none only with ``swarm.insecure``). Every
            one must accept. Must not change state.

        Args:
            envelope: the message; ``envelope.auth.get(name)`` is this plugin's authenticator.
            source: who answers for its delivery, 32 bytes: the author, where the transport proves
                who sent a frame first, else the neighbour that delivered it; for a quoted message
                the claimed sender.
            now: this node's clock, seconds since 1970 (virtual in the simulator).
        Returns: ``ACCEPT`` or ``reject(reason, blame=Blame.LINK)``. That lays it on
            the source, not on the claimed sender, who may not have made it.
        Raises: an error counts as a rejection that blames nobody, and is reported with the
            plugin's name.
        Example::

            @attrs.frozen
            class Mac:
                key_hex: str

                @hookimpl
                def authenticate(self, envelope):
                    key = bytes.fromhex(self.key_hex)
                    tag = hmac.digest(key, envelope.signing_digest, "sha256")
                    if hmac.compare_digest(tag, envelope.auth.get("mac", b"")):
                        return ACCEPT
                    return reject("bad tag", blame=Blame.LINK)
        """

    @hookspec
    def identity(self, seed: bytes | None) -> NodeId:
        """Say who this node is.

        When: once, before ``setup``, when the node starts.
        Slot: authenticate, naming half; none or one. Without one, whoever starts the node names
            it.

        Args:
            seed: 32 bytes to derive a reproducible identity from, in the simulator; ``None`` on a
                real node, which loads its own key. Never a source of real keys.
        Returns: 32 bytes, the public key that checks what ``sign`` makes (after a rotation, the
            first key of the chain).
        Raises: any error stops the node.
        Example::

            @attrs.define
            class Keyed:
                key_file: str = ""

                @hookimpl
                def identity(self, seed):
                    self._key = derive(seed) if seed is not None else load(self.key_file)
                    return self._key.public_bytes()
        """

    @hookspec
    def link_keys(self) -> LinkKeys:
        """Lend the transport the keys that prove identities on a connection.

        When: once, after ``setup``, just before ``transport``, which gets the result.
        Slot: authenticate, connecting half of ``identity``; none or one.
        Args: none.
        Returns: :class:`LinkKeys`. Its ``sign`` must refuse statements of 32 bytes, or a connection
            could be made to sign a message.
        Raises: any error stops the node.
        Example::

            @attrs.define
            class Keyed:
                key_file: str = ""

                @hookimpl
                def link_keys(self):
                    return LinkKeys(self._key.public_bytes(), self._sign_long, lambda node: node)
        """

    @hookspec
    def credential(self) -> bytes:
        """What this node shows a neighbour when it connects.

        When: whenever the transport meets a neighbour, through the ``credential`` callback the
            ``transport`` hook was given.
        Slot: authenticate, showing half of ``admit``; none or one.
        Args: none.
        Returns: bytes the neighbour's ``admit`` is given, at most 4096.
        Raises: any error stops the node.
        Example::

            @attrs.frozen
            class Badge:
                badge_hex: str

                @hookimpl
                def credential(self):
                    return bytes.fromhex(self.badge_hex)
        """

    @hookspec
    def admit(self, peer: NodeId, credential: bytes) -> Verdict:
        """Decide whether a neighbour may connect at all.

        When: whenever the transport meets a neighbour, through the ``admission`` callback the
            ``transport`` hook was given.
        Slot: authenticate, gate of the transport; any number. Every one must accept.

        Args:
            peer: identity the transport proved for the neighbour, 32 bytes.
            credential: what the neighbour showed for itself (a certificate), may be empty.
        Returns: ``ACCEPT`` or ``reject("not on the list")``.
        Raises: an error counts as a rejection.
        Example::

            @attrs.frozen
            class AllowList:
                members: tuple[str, ...] = ()

                @hookimpl
                def admit(self, peer):
                    return ACCEPT if peer.hex() in self.members else reject("not on the list")
        """

    # ── replay_check ──────────────────────────────────────────────────────────────────────────

    @hookspec
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        """Decide whether the message is new and timely.

        When: for every incoming message that was authenticated, exactly once per delivery.
        Slot: replay_check; one or more (none only with ``swarm.insecure``). Every one must accept.
            May change state: an accepted message is seen.

        Args:
            envelope: the authenticated message.
            now: this node's clock, seconds since 1970 (virtual in the simulator).
        Returns: ``ACCEPT`` or ``reject("replayed", blame=Blame.LINK)``.
        Raises: an error counts as a rejection that blames nobody.
        Example::

            @attrs.define
            class Increasing:
                _last: dict[bytes, int] = attrs.field(factory=dict, init=False)

                @hookimpl
                def replay_check(self, envelope):
                    if envelope.sequence <= self._last.get(envelope.sender, -1):
                        return reject("replayed", blame=Blame.LINK)
                    self._last[envelope.sender] = envelope.sequence
                    return ACCEPT
        """

    # ── reputation ────────────────────────────────────────────────────────────────────────────

    @hookspec
    def reputation(self, sender: NodeId) -> Standing:
        """Say how much a node counts and whether it is banned.

        When: for the source of every incoming message before ``authenticate``, and for its sender
            after ``replay_check`` where that is another; for a neighbour before ``admit``; for a
            round's proposer when it opens; for members of a set, by the node that proposes it and
            by those that vote on it.
        Slot: reputation, asking half; none or one. Without one everybody counts fully.

        Args:
            sender: identity, 32 bytes.
        Returns: a :class:`Standing`; ``weight`` in units of 2**-16.
        Raises: an error counts as banned for that message.
        Example::

            @attrs.frozen
            class Blocklist:
                blocked: tuple[str, ...] = ()

                @hookimpl
                def reputation(self, sender):
                    return Standing(banned=sender.hex() in self.blocked)
        """

    @hookspec
    def observe(self, evidence: Evidence) -> None:
        """Take note of a fact about a node.

        When: for every rejection with blame, for every accusation of a dialogue, for what
            ``screen`` and ``reveal`` bring to light, and for every agreed contribution.
        Slot: reputation, telling half; any number, in file order.

        Args:
            evidence: subject, fact, source, whether it speaks against the subject, round.
        Returns: nothing.
        Raises: any error stops the node: evidence must not be lost.
        Example::

            @attrs.define
            class Tally:
                counts: Counter = attrs.field(factory=Counter, init=False)

                @hookimpl
                def observe(self, evidence):
                    self.counts[evidence.subject, evidence.fact] += 1
        """

    # ── privatize ─────────────────────────────────────────────────────────────────────────────

    @hookspec
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Hide what must not leave the node.

        When: once a round, after training and when every dialogue is ready.
        Slot: privatize, outbound half; any number, chained in file order: each gets the previous
            one's result.

        Args:
            update: int32 vector of shape ``(d,)``, weight, companions of plugins before this one.
            round_info: the round.
        Returns: an :class:`Update` of the same dimension, with a companion of the plugin's own if
            it likes. A plugin that hides the vector hides every companion that has a modulus.
        Raises: ``ValueRefusedError`` QRES-E507 to sit the round out (a spent budget); any other
            error stops the node.
        Example::

            @attrs.frozen
            class Clip:
                bound: int

                @hookimpl
                def privatize(self, update):
                    clipped = np.clip(update.vector, -self.bound, self.bound)
                    return attrs.evolve(update, vector=clipped)
        """

    @hookspec
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates | Revelation:
        """Undo for the whole what ``privatize`` did to the parts.

        When: once a round, when the set is agreed and every dialogue finished, before
            ``aggregate``. Not for a set that was merged before the vote on it (``endorse``).
        Slot: privatize, inbound half; any number, chained in reverse file order.

        Args:
            updates: int32 of shape ``(n, d)``, senders, weights; what the ``reveal`` before this
                one returned.
            contributions: the agreed contributions as they were sent, ascending by sender, with
                proofs and companions.
            round_info: the round.
        Returns: :class:`Updates`, for example one row that is the mean of all, with the exact
            ``sums`` behind it; or a :class:`Revelation` that tells ``observe`` of evidence too.
        Raises: any error aborts the round.
        Example::

            @attrs.frozen
            class Unmask:
                @hookimpl
                def reveal(self, updates, contributions, round_info):
                    return sum_without_masks(updates, contributions, round_info)
        """

    # ── prove ─────────────────────────────────────────────────────────────────────────────────

    @hookspec
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        """Prove a property of the update that leaves the node.

        When: once a round, after the whole ``privatize`` chain.
        Slot: prove, outbound half; any number. The result travels with the contribution under the
            plugin's name.

        Args:
            update: the update as it will be sent.
            round_info: bind the proof to it.
        Returns: proof bytes.
        Raises: any error makes the node sit the round out.
        Example::

            @attrs.frozen
            class Checksum:
                @hookimpl
                def prove(self, update, round_info):
                    bound = round_info.model_digest + update.vector.tobytes()
                    return hashlib.sha256(bound).digest()
        """

    @hookspec
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        """Check the proof that came with a contribution.

        When: for every contribution after the reputation gate, this node's own among them, and for
            those fetched for a proposed set. Not for those of a set that a quorum has decided on
            without this node: it is merged whatever the node makes of a proof. Where
            ``swarm.proof_checks`` is ``"committee"``, not for those that ``f + 1`` of the nodes
            in charge of them attest either; that takes a plugin with the trait ``transferable``.
        Slot: prove, inbound half; any number. Every one must accept.

        Args:
            contribution: sender, vector of shape ``(d,)``, weight, ``proofs`` by plugin name.
            round_info: the round the proof must be bound to.
        Returns: ``ACCEPT`` or ``reject("bad proof", blame=Blame.SENDER)``: the sender signed it.
        Raises: an error counts as a rejection that blames nobody.
        Example::

            @attrs.frozen
            class Checksum:
                @hookimpl
                def verify(self, contribution, round_info):
                    body = round_info.model_digest + contribution.vector.tobytes()
                    if contribution.proofs.get("checksum") == hashlib.sha256(body).digest():
                        return ACCEPT
                    return reject("bad proof", blame=Blame.SENDER)
        """

    @hookspec
    def verify_all(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Sequence[Verdict]:
        """Check the proofs of many contributions at once: for what is cheaper together.

        When: in place of ``verify``, for contributions of one round that wait to be checked: once
            all are here, before a set is proposed or voted on, or when enough wait.
        Slot: prove, inbound half; any number. Every one must accept. A plugin that has it also has
            ``verify``, which must come to the same verdicts.

        Args:
            contributions: at least one, of distinct digests, in the order they came.
            round_info: the round the proofs must be bound to.
        Returns: a verdict for each contribution, in their order.
        Raises: an error is counted, and ``verify`` asked for each instead.
        Example::

            @attrs.frozen
            class Checksum:  # and verify, as above
                @hookimpl
                def verify_all(self, contributions, round_info):
                    return [self.verify(one, round_info) for one in contributions]
        """

    # ── aggregate ─────────────────────────────────────────────────────────────────────────────

    @hookspec
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Merge the agreed updates into one.

        When: on every node, innermost of the ``wrap_aggregate`` chain, for the agreed set; before
            the vote on it where a plugin is to ``endorse`` what it merges to.
        Slot: aggregate; exactly one.

        Args:
            updates: int32 of shape ``(n, d)``, ascending distinct senders, weights of shape
                ``(n,)``; read-only.
            round_info: the round.
        Returns: int32 of shape ``(d,)``; the same bits on every machine. The new model is the
            round's model plus this.
        Raises: ``ValueRefusedError`` QRES-E505 for too few updates; any error aborts the round.
            Never falls back to a weaker rule.
        Example::

            @attrs.frozen
            class Median:
                @hookimpl
                def aggregate(self, updates):
                    return np.median(updates.vectors, axis=0).astype(np.int32)
        """

    @hookspec
    def wrap_aggregate(
        self,
        proceed: Callable[[Updates], Vector],
        updates: Updates,
        held_out: HeldOut | None,
        round_info: RoundInfo,
    ) -> Vector:
        """Run around the rule: filter or mix what goes in, check or clip what comes out.

        When: as ``aggregate``, around it; the first in the file is outermost.
        Slot: aggregate, wrapper; any number.

        Args:
            proceed: the rest of the chain; call it with the updates to merge, once or more.
            updates: int32 of shape ``(n, d)``.
            held_out: the node's held-out examples; ``None`` where its trainer keeps none. All nodes
                must come to the same result, so use them only where all hold the same.
            round_info: the round.
        Returns: int32 of shape ``(d,)``.
        Raises: any error aborts the round.
        Example::

            @attrs.frozen
            class StaticClip:
                bound: int

                @hookimpl
                def wrap_aggregate(self, proceed, updates):
                    clipped = np.clip(updates.vectors, -self.bound, self.bound)
                    return proceed(attrs.evolve(updates, vectors=clipped))
        """

    @hookspec
    def screen(self, updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> Screening:
        """Say which updates this node would rather not see merged, or see count less.

        When: on the round's proposer, once it has what it could propose and before it proposes.
            Not for a set that a quorum already voted for, which is proposed again as it was.
        Slot: aggregate, choosing half; any number. What any of them speaks against is left out of
            the proposal, and shares multiply. A set that shrinks below the quorum is not proposed.
            The shares are part of the agreed set, as standings are.

        Args:
            updates: what could be proposed: int32 of shape ``(n, d)``, senders, weights.
            held_out: the node's own held-out examples, and the round's model.
            round_info: the round.
        Returns: a :class:`Screening`; ``observe`` is told of the evidence in it.
        Raises: an error counts as no proposal, and is reported with the plugin's name.
        Example::

            @attrs.frozen
            class Selfish:
                @hookimpl
                def screen(self, updates, held_out, round_info):
                    now = held_out.loss()
                    return Screening(
                        tuple(
                            Evidence(one, "harmful", "selfish", True, round_info.number)
                            for one, row in zip(updates.senders, updates.vectors)
                            if held_out.loss_with(row) > 2 * now
                        )
                    )
        """

    @hookspec
    def endorse(
        self, updates: Updates, merged: Vector, held_out: HeldOut, round_info: RoundInfo
    ) -> Verdict:
        """Decide whether this node votes for a proposed set.

        When: on every node, when it holds all of a proposed set and before its first vote on it.
            A set that a quorum already voted for is not asked about again.
        Slot: aggregate, voting half; any number. Every one must accept, or the node votes for
            no set. A set that too few endorse is never merged: the model stays as it was.

        Args:
            updates: the proposed set: int32 of shape ``(n, d)``, senders, weights.
            merged: what the rule makes of it, int32 of shape ``(d,)``.
            held_out: the node's own held-out examples, and the round's model.
            round_info: the round.
        Returns: ``ACCEPT`` or ``reject("worse on held-out examples")``.
        Raises: an error counts as a rejection, and is reported with the plugin's name.
        Example::

            @attrs.frozen
            class NoWorse:
                @hookimpl
                def endorse(self, merged, held_out):
                    if held_out.loss_with(merged) <= 2 * held_out.loss():
                        return ACCEPT
                    return reject("worse on held-out examples")
        """
