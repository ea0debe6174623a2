"""Nodes whose history is another: they tell each other how their settings and members differ."""

from __future__ import annotations

from qres_core.contract import canonical
from qres_core.contract.errors import WireError
from qres_core.contract.faults import Fault
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import Blame
from qres_core.contract.wire import Envelope
from qres_core.kernel.settings import SharedSettings
from qres_core.swarm.context.outbox import Speaker
from qres_core.swarm.ledger.chain import Head, beginning
from qres_core.swarm.ledger.messages import HEAD


class Apart:
    """Nodes that were told this node's identity and settings, and nodes with another history."""

    def __init__(self, speaker: Speaker) -> None:
        self._context, self._speaker = speaker.context, speaker
        self._told: set[NodeId] = set()  # at this height
        self._found: set[NodeId] = set()

    def moved_on(self) -> None:
        """The node is at another head."""
        self._told = set()

    def say_head(self, peer: NodeId, now: float) -> None:
        """Tell a node with another history what this node goes by, once at each height."""
        if peer not in self._told:
            self._told.add(peer)
            settings = self._context.kernel.settings.to_bytes()
            known = [self._context.head.raw(), settings, self._context.first_model]
            payload = canonical.dumps(known)
            self._speaker.send(peer, self._speaker.make(HEAD, payload, now))

    def take_head(self, envelope: Envelope, now: float) -> None:
        """Say how another node's history, that does not fit this one's, differs.

        That node is told what this one goes by, wherever it is: its operator has to know as well.
        Raises WireError: QRES-E401 to QRES-E406.
        """
        most = len(self._context.head.digest) * 4096 * 2 + 2**17
        value = canonical.loads(envelope.payload, max_bytes=most, max_items=512)
        if not canonical.is_list(value) or [type(item) for item in value[1:]] != [bytes, bytes]:
            what = "expected a head, settings and the digest of a model"
            raise WireError.of("QRES-E404", "payload.head", what)
        theirs, settings = Head.from_raw(value[0]), SharedSettings.from_bytes(value[1])
        here, own, first = self._context.head, self._context.kernel.settings, value[2]
        common = beginning(settings.digest, first)
        if envelope.sender in self._found or common != theirs.settings:
            return
        found = [*own.differences(settings)]
        if first != self._context.first_model:
            found.append("it began with another model")
        if theirs.height == here.height and theirs.roster.digest != here.roster.digest:
            found.append("it has another roster, f or quorum")
        if found:
            self._found.add(envelope.sender)
            fault, detail = Fault.OTHER_SETTINGS, "; ".join(found)
            self._speaker.outlet.refuse(envelope, fault, Blame.NOBODY, detail=detail)
            self.say_head(envelope.sender, now)
