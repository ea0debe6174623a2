"""Intake of messages, and blame for them: every verdict of the plugins is asked here.

A verdict that is missing, of another type or cut short by an exception is a rejection. The order of
checks of a frame, and who is blamed, is in :mod:`qres_core.kernel.inbound`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final, cast

import attrs

from qres_core.contract import faults
from qres_core.contract.errors import WireError
from qres_core.contract.evidence import Accusation, Evidence, Standing
from qres_core.contract.faults import Fault
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution, NodeId, Vector
from qres_core.contract.verdict import ACCEPT, UNSTATED, Blame, Decision, Verdict, reject
from qres_core.contract.wire import NUMBERS_PER_KEY, Envelope
from qres_core.kernel import inbound
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.calls import Caller, Calls
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.inbound import Rejection

FULL: Final = Standing()
IDS: Final = 64
"""Ids of one plugin that are told apart; what else it says is counted as ``<plugin>:other``."""
_SLOWLY: Final = 16
"""Messages over which a clock that moved away is noticed; one that was long on its way is not."""
_SAID_BY: Final[Mapping[str, frozenset[Fault]]] = {"replay_check": frozenset({Fault.REPLAYED})}
"""The faults of the kernel that a plugin may name, by hook. All others are the kernel's to find."""


class Intake:
    """Opinions of a node's plugins on messages and on their senders.

    Attributes:
        swarm: the swarm's promises.
        roster: identities of the present members.
        banned: those of them that the swarm agreed to ban.
        signers: plugins that sign.
        has_companions: whether anything but proofs may travel beside an update.
        rejections: what was refused, by fact.
        clock_offsets: seconds that this node's clock is ahead of each sender's, as messages tell.
        last_heard: when a message of each sender was taken last, seconds of this node's clock.
    """

    def __init__(self, calls: Calls, enabled: Sequence[Enabled], swarm: SwarmConfig) -> None:
        self._calls = calls
        self.swarm = swarm
        self.roster: frozenset[NodeId] = frozenset()
        self.banned: frozenset[NodeId] = frozenset()
        self.signers = frozenset(calls.names("sign"))
        self.has_companions = calls.has("reveal") or any(
            plugin.claims.privatizes.accompanies for plugin in enabled
        )
        self.rejections: Counter[str] = Counter()
        self.clock_offsets: dict[NodeId, float] = {}
        self.last_heard: dict[NodeId, float] = {}
        self._provers = frozenset(calls.names("prove"))
        self._ids: dict[str, set[str]] = {}
        self._key_indices: dict[NodeId, int] = {}

    # ── members ───────────────────────────────────────────────────────────────────────────────

    def enter(self, roster: frozenset[NodeId], banned: frozenset[NodeId] = frozenset()) -> None:
        """Judge by these members from now on; called when a height begins, before its round opens.

        ``roster``: the members of the height; ``banned``: those of them that the swarm agreed to
        ban, whatever this node's reputation plugin thinks of them. Until the first call the roster
        of ``setup`` counts, and nobody is banned by agreement.
        """
        self.roster, self.banned = roster, banned

    def read_keys(self) -> None:
        """Ask anew whose key has which number: an error comes now, and not with a message."""
        self._key_indices.clear()
        if self._calls.has("key_index"):
            for node_id in self.roster:
                self.key_index(node_id)

    def key_index(self, node_id: NodeId) -> int:
        """Number of keys of a node before its present one; 0 where no plugin says. Asked once."""
        known = self._key_indices.get(node_id)
        if known is None:
            known = self._calls.first("key_index", 0, node_id=node_id)
            self._key_indices[node_id] = known
        return known

    def is_of_old_key(self, envelope: Envelope) -> bool:
        """True if its author has replaced the key that signed it since.

        Nobody can tell any more whether it is authentic, so who hands it on is not to blame.
        """
        return envelope.sequence // NUMBERS_PER_KEY < self.key_index(envelope.sender)

    def standing(self, sender: NodeId) -> Standing:
        """Ask the reputation plugin about a node; full standing without one.

        Whom the swarm agreed to ban is banned, whatever the plugin says.
        """
        if sender in self.banned:
            return Standing(0, banned=True)
        for name, caller in self._calls.by_hook["reputation"]:
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

    def admit(self, peer: NodeId, credential: bytes) -> Verdict:
        """Judge if a neighbour may connect: a member, not banned, whom every plugin admits."""
        if peer not in self.roster:
            return reject(str(Fault.UNKNOWN_SENDER))
        if self.standing(peer).banned:
            return reject(str(Fault.BANNED))
        return self.verdict("admit", peer=peer, credential=credential)[0]

    def approved(self, digest: bytes, approval: bytes, now: float) -> bool:
        """True if the swarm's authority approved a change of the members.

        False where no plugin knows an authority. ``digest``: of the change, 32 bytes.
        """
        if not self._calls.has("approve"):
            return False
        return self.verdict("approve", digest=digest, approval=approval, now=now)[0] is ACCEPT

    def authority(self, now: float) -> Callable[[bytes, bytes], bool] | None:
        """Check by the authority of a change, by its digest; ``None`` where members decide."""
        if self.swarm.authority != "ca":
            return None
        return lambda digest, approval: self.approved(digest, approval, now)

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def inbound(
        self, frame: bytes, source: NodeId, now: float, waited: float = 0.0
    ) -> Envelope | Rejection:
        """The whole path of one incoming frame up to its content.

        See :func:`qres_core.kernel.inbound.take` for arguments, checks and blame. Returns the
        envelope, or why not. Never raises for what the frame holds.
        """
        taken = inbound.take(self, frame, source, now, waited)
        if isinstance(taken, Envelope):
            self._compare_clocks(taken, now - waited)
            self.last_heard[taken.sender] = now
        return taken

    def read(self, frame: bytes) -> Envelope:
        """:meth:`Envelope.from_bytes` with the swarm's limit."""
        return Envelope.from_bytes(frame, max_bytes=self.swarm.max_message_bytes)

    def _compare_clocks(self, envelope: Envelope, now: float) -> None:
        """Note how far this node's clock is from a sender's: at most the way took the rest."""
        offset = now - envelope.time_ms / 1000
        before = self.clock_offsets.get(envelope.sender, offset)
        nearer = abs(offset) <= abs(before)
        self.clock_offsets[envelope.sender] = (
            offset if nearer else before + (offset - before) / _SLOWLY
        )

    def authenticate(
        self, envelope: Envelope, source: NodeId, now: float, *, quoted: bool = False
    ) -> tuple[Verdict, str]:
        """The first refusing verdict on who made a message, and its author.

        ``quoted``: whether another message holds it; then it is not asked who may take part now.
        """
        return self.verdict(
            "authenticate", envelope=envelope, source=source, now=now, quoted=quoted
        )

    def takes_part(self, envelope: Envelope, now: float) -> bool:
        """True if the author of a message that somebody quotes may take part now.

        A quote is no way in for who was revoked. Whoever hands it on may not have heard of that.
        """
        return self.authenticate(envelope, envelope.sender, now)[0] is ACCEPT

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

    def authentic(
        self, envelope: Envelope, now: float, members: Collection[NodeId] | None = None
    ) -> bool:
        """True if a message quoted inside another was made by its sender; see :meth:`quoted`."""
        return self.quoted(envelope, now, members) is ACCEPT

    def replay_check(self, envelope: Envelope, now: float) -> tuple[Verdict, str]:
        """The first refusing verdict on whether a message is new, and its author."""
        return self.verdict("replay_check", envelope=envelope, now=now)

    # ── contributions ─────────────────────────────────────────────────────────────────────────

    def check_beside(self, proofs: Collection[str], companions: Collection[str]) -> None:
        """Refuse what no plugin of the swarm sends: a liar would fill the memory of all with it.

        ``proofs`` and ``companions``: of a contribution, by name. Raises WireError: QRES-E404.
        """
        strange, kind = sorted({*proofs} - self._provers), "proofs"
        if not strange and not self.has_companions:
            strange, kind = sorted(companions), "companions"
        if strange:
            what = f"{strange[0]!r:.60} is there, and no plugin of this swarm sends it"
            raise WireError.of("QRES-E404", f"payload.{kind}", what)

    def verify(self, contribution: Contribution, round_info: RoundInfo) -> tuple[Verdict, str]:
        """The first refusing verdict on a contribution, and its author."""
        return self.verdict("verify", contribution=contribution, round_info=round_info)

    def verify_shard(
        self, contribution: Contribution, shard: Vector, start: int, round_info: RoundInfo
    ) -> tuple[Verdict, str]:
        """The first refusing verdict on a shard of a contribution, and its author.

        Accepted where single updates are hidden: a masked shard tells nothing of what is proved.
        ``shard``: int32, the coordinates from ``start`` on.
        """
        if self._calls.has("reveal_shard"):
            return ACCEPT, ""
        named = {"contribution": contribution, "round_info": round_info}
        return self.verdict("verify_shard", shard=shard, start=start, **named)

    def verify_all(
        self, contributions: Sequence[Contribution], round_info: RoundInfo
    ) -> list[tuple[Verdict, str]]:
        """For each contribution the first refusing verdict and its author, or an acceptance.

        What a plugin can check together is checked together, but for what another refused before.
        """
        found: list[tuple[Verdict, str]] = [(ACCEPT, "")] * len(contributions)
        together = dict(self._calls.by_hook["verify_all"])
        for name, caller in self._calls.by_hook["verify"]:
            left = [at for at, (verdict, _name) in enumerate(found) if verdict is ACCEPT]
            chosen = tuple(contributions[at] for at in left)
            verdicts = None
            if name in together and len(left) > 1:
                verdicts = self._together(name, together[name], chosen, round_info)
            if verdicts is None:
                info = {"round_info": round_info}
                verdicts = [
                    self._asked(name, "verify", caller, {"contribution": item, **info})
                    for item in chosen
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

    # ── verdicts and facts ────────────────────────────────────────────────────────────────────

    def verdict(self, hook: str, **arguments: Any) -> tuple[Verdict, str]:
        """The first verdict of a hook that is not an acceptance, with its author."""
        for name, caller in self._calls.by_hook[hook]:
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

    def observe(self, evidence: Evidence) -> None:
        """Tell every observing plugin."""
        self._calls.all("observe", evidence=evidence)

    def evidence(self, name: str, accusation: Accusation, round_number: int) -> Evidence:
        """Evidence of a plugin about a node, named after the plugin."""
        fact = self._fact(name, accusation.fact)
        return Evidence(accusation.subject, fact, name, round_number)

    def _fact(self, plugin: str, own: str) -> str:
        """Fact that a plugin found, named after it. However many ids it makes up, few are kept."""
        known = self._ids.setdefault(plugin, set())
        if own not in known and len(known) >= IDS:
            own = "other"
        known.add(own)
        return faults.of_plugin(plugin, own)

    def _note(self, plugin: str, own: str) -> None:
        self.rejections[self._fact(plugin, own)] += 1


def _checked(hook: str, verdict: object) -> Verdict:
    """Read a plugin's answer as a verdict; one that is none, or not well made, rejects."""
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
    """True if a plugin's verdict may give this reason: an id of its own, or a fault of its hook."""
    if isinstance(reason, Fault):
        return reason in _SAID_BY.get(hook, ())
    return type(reason) is str and faults.is_own_id(reason)


def _no_verdict(hook: str) -> Verdict:
    return reject(f"{_worded(hook)}-gave-no-verdict")


def _worded(hook: str) -> str:
    return hook.replace("_", "-")
