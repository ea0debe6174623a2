"""Which model follows on which: what this node made, and what the others vouch for.

After a round a node broadcasts the digest of the model it holds. Equal digests of a quorum are
agreement; a quorum for another model than the node's own means that it must stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qres_core.contract import canonical
from qres_core.contract.errors import RoundError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId, model_digest
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.swarm.context import NodeContext
from qres_core.swarm.effects import Agreed, Diverged, Vouched
from qres_core.swarm.messages import (
    DIGEST,
    Snapshot,
    decode_digest,
)
from qres_core.swarm.model_file import SwarmModel
from qres_core.swarm.outbox import Speaker


class Vouchers:
    """Messages that vouch for models, by the model before."""

    def __init__(self, speaker: Speaker) -> None:
        self._context, self._position = speaker.context, speaker.position
        self._speaker, self._outlet = speaker, speaker.outlet
        self.by_parent: dict[bytes, dict[NodeId, tuple[bytes, Envelope]]] = {}
        self.children: dict[bytes, bytes] = {}
        self._agreed: set[bytes] = set()
        self._handed_out = b""
        self.diverged = False
        """Whether a quorum holds another model than this node."""

    def knows(self, model: bytes) -> bool:
        """Whether this node holds the model or has held it."""
        here = self._position
        return model in (here.model_digest, here.parent) or model in self.children

    def made(self, parent: bytes, child: bytes) -> None:
        """This node went on from a model to another."""
        self.children[parent] = child

    def forget(self, parent: bytes) -> None:
        """Forget what followed on a model."""
        self.by_parent.pop(parent, None)
        self.children.pop(parent, None)

    def accept(self, parent: bytes, child: bytes, vouchers: Iterable[Envelope]) -> None:
        """Take proven vouchers in the place of those kept."""
        self.by_parent[parent] = {voucher.sender: (child, voucher) for voucher in vouchers}
        self._hand_out(child)

    def vouch(self, now: float) -> None:
        """Tell the others which model this node holds, so that one that lags can be convinced.

        Not where they would not take its word.
        """
        position = self._position
        payload = canonical.dumps(position.model_digest)
        voucher = self._speaker.make(
            DIGEST, payload, now, round_number=position.model_round, model=position.parent
        )
        # The word of a member that only trains is refused, and so is what holds it, as a whole.
        if self._context.kernel.authentic(voucher, now):
            self._speaker.send_all(voucher)
            self.take(voucher)

    def take(self, envelope: Envelope) -> None:
        """Take what a node says it holds. Raises WireError: QRES-E401 to QRES-E404."""
        parent = envelope.head
        digest = decode_digest(envelope.payload)
        vouchers = self.by_parent.setdefault(parent, {})
        earlier, _message = vouchers.setdefault(envelope.sender, (digest, envelope))
        if earlier != digest:
            self._outlet.refuse(envelope, Fault.EQUIVOCATION, Blame.SENDER)
            return
        child = self.children.get(parent)
        if child is None:
            return
        self._hand_out(child)
        agreeing = sum(1 for seen, _message in vouchers.values() if seen == child)
        if agreeing >= self._context.threshold and parent not in self._agreed:
            self._agreed.add(parent)
            self._agreed &= set(self.children)
            self._outlet.put(Agreed(envelope.round, child))
        for other in {seen for seen, _message in vouchers.values()} - {child}:
            against = sum(1 for seen, _message in vouchers.values() if seen == other)
            if against >= self._context.threshold:
                what = f"{against} nodes hold {other.hex()[:16]}, this node {child.hex()[:16]}"
                fix = "compare software and plugin versions, then restart from a snapshot"
                error = RoundError.of("QRES-E601", f"round {envelope.round}", what, fix)
                self._outlet.put(Diverged(error, self._from(child)))
                self.diverged = True

    def _from(self, model: bytes | None) -> frozenset[bytes]:
        """A model and those that this node made from it."""
        found: set[bytes] = set()
        while model is not None and model not in found:
            found.add(model)
            model = self.children.get(model)
        return frozenset(found)

    def of_model(self) -> tuple[Envelope, ...]:
        """Messages that vouch for the model this node holds, ascending by sender."""
        here = self._position
        known = sorted(self.by_parent.get(here.parent, {}).items())
        return tuple(message for _sender, (seen, message) in known if seen == here.model_digest)

    def _hand_out(self, child: bytes) -> None:
        """Report a model of this node once more than f nodes vouch for it."""
        here, swarm = self._position, self._context.swarm
        if child != here.model_digest or child == self._handed_out:
            return
        vouchers = self.of_model()
        if len(vouchers) > swarm.byzantine:
            self._handed_out = child
            model = SwarmModel(swarm.name, here.step, swarm.scale, here.model, vouchers)
            self._outlet.put(Vouched(model))

    def proving(self, parent: bytes) -> tuple[Envelope, ...]:
        """Vouchers of enough nodes for one model that follows on ``parent``; empty without."""
        by_digest: dict[bytes, list[Envelope]] = {}
        for _sender, (digest, message) in sorted(self.by_parent.get(parent, {}).items()):
            by_digest.setdefault(digest, []).append(message)
        for messages in by_digest.values():
            if len(messages) >= self._context.vouched:
                return tuple(messages)
        return ()


def is_vouched(context: NodeContext, snapshot: Snapshot, now: float) -> bool:
    """Whether enough nodes vouch that the snapshot's model followed on one and the same model.

    Raises WireError: QRES-E404 for a voucher that is none.
    """
    vouchers: Sequence[Envelope] = snapshot.vouchers
    digest = model_digest(snapshot.vector, snapshot.step)
    senders = {voucher.sender for voucher in vouchers}
    return (
        len(senders) == len(vouchers) >= context.vouched
        and len({voucher.head for voucher in vouchers}) == 1
        and all(voucher.kind == DIGEST for voucher in vouchers)
        and all(decode_digest(voucher.payload) == digest for voucher in vouchers)
        and all(context.kernel.authentic(voucher, now) for voucher in vouchers)
    )
