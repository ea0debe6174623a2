"""A stolen key uses up its own sequence numbers, and none of the key that replaces it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np
import pytest
from qres_ed25519 import keyfile
from qres_ed25519.rotation import KeyRotation
from qres_ed25519.signature import SigningKey
from qres_lab.testing import make_envelope

from qres_core import Envelope, Fault, NodeInfo
from qres_core.contract.wire import NUMBERS_PER_KEY
from qres_core.kernel import inbound
from qres_core.kernel.config import parse
from qres_core.kernel.inbound import Rejection
from qres_core.kernel.intake import Intake
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.outbox import Outlet, Speaker
from qres_core.swarm.context.position import NodeContext
from qres_core.swarm.ledger.chain import Head
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.storage.journal import SqliteJournal

NOW = 1_700_000_000.0
LAST = 2**63 - 1
PAIRS = [SigningKey.from_seed(bytes([number]) * 32) for number in range(5)]
OLD, NEW = PAIRS[0], PAIRS[4]
ROSTER = tuple(sorted(pair.public for pair in PAIRS[:4]))
OWNER = OLD.public


@attrs.define
class Nodes:
    """The two nodes, each with what it keeps; ``start`` takes their place in a new process."""

    folder: Path
    statements: list[str] = attrs.field(factory=list)
    running: list[Any] = attrs.field(factory=list)
    speaker: Any = None
    receiver: Any = None

    def start(self, key: SigningKey) -> None:
        """The owner with this key, and the receiver."""
        self.stop()
        owner, self.receiver = self._kernel("owner", key), self._kernel("receiver", PAIRS[1])
        journal = SqliteJournal(
            self.folder / "owner",
            swarm="testing",
            node_id=OWNER,
            initial=np.zeros(3, dtype=np.int32),
        )
        roster = Roster(ROSTER, owner.swarm.byzantine, owner.swarm.quorum)
        head = Head.first("testing", bytes(32), roster, owner.settings.digest)
        context = NodeContext(OWNER, owner, owner.swarm, head)
        self.speaker = Speaker(context, cast("Any", None), journal, Outlet(owner))
        self.running = [owner.teardown, self.receiver.teardown, journal.close]

    def stop(self) -> None:
        for end in self.running:
            end()
        self.running = []

    def _kernel(self, name: str, key: SigningKey) -> Kernel:
        file = self.folder / f"{name}.{key.public.hex()[:8]}.key"
        if not file.exists():
            keyfile.save(file, key, None)
        ed25519 = {"key": str(file), "rotations": self.statements}
        swarm = {"name": "testing", "nodes": 4, "byzantine": 0, "quorum": 4}
        plugins = {"memory": {}, "ed25519": ed25519, "replay": {}, "mean": {"unprotected": True}}
        kernel = Kernel.from_config(parse({"swarm": swarm, "plugins": plugins}, source="test"))
        node_id = kernel.identity(None)
        assert node_id is not None
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        kernel.setup(NodeInfo(node_id, "testing", ROSTER, data_dir=str(folder)))
        return kernel

    def hears(self, sequence: int, key: SigningKey) -> str:
        """Why the receiver refuses a number of the owner, signed with a key; empty if not."""
        envelope = make_envelope(sender=OWNER, sequence=sequence, time_ms=int(NOW * 1000))
        signature = {"ed25519": key.sign(envelope.signing_digest)}
        taken = self.receiver.inbound(envelope.with_auth(signature).to_bytes(), ROSTER[2], NOW)
        assert isinstance(taken, Rejection | Envelope)
        return taken.reason if isinstance(taken, Rejection) else ""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes(tmp_path)
    statement = tmp_path / "owner.rotation"
    statement.write_bytes(KeyRotation.make(OLD, NEW, 100).to_bytes())
    yield made
    made.stop()


def rotate(nodes: Nodes) -> None:
    nodes.statements = [str(nodes.folder / "owner.rotation")]
    nodes.start(NEW)


@pytest.fixture
def as_before(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Every number belongs to every key, as it was."""

    def undo() -> None:
        monkeypatch.setattr(inbound, "NUMBERS_PER_KEY", 2**63)
        monkeypatch.setattr(Intake, "key_index", lambda _intake, _node_id: 0)

    return undo


@pytest.mark.claim("C-keys-9")
@pytest.mark.parametrize("guarded", [True, False])
def test_who_stole_a_key_cannot_shut_out_the_key_that_replaces_it(
    nodes: Nodes, as_before: Callable[[], None], *, guarded: bool
) -> None:
    """The control: without the guard the owner stays shut out, through restarts and for good."""
    if not guarded:
        as_before()
    nodes.start(OLD)
    assert nodes.hears(nodes.speaker.take_sequence(), OLD) == ""
    assert nodes.hears(LAST, OLD) == (Fault.SEQUENCE_OF_OTHER_KEY if guarded else "")
    last_of_its_own = nodes.hears(NUMBERS_PER_KEY - 1, OLD)
    assert last_of_its_own == ("" if guarded else "replay:sequence-too-old")
    assert nodes.hears(nodes.speaker.take_sequence(), OLD) == "replay:sequence-too-old"
    rotate(nodes)
    for _restart in range(2):
        number = nodes.speaker.take_sequence()
        assert nodes.hears(number, NEW) == ("" if guarded else "replay:sequence-too-old")
        assert nodes.hears(number, NEW) == ("replayed" if guarded else "replay:sequence-too-old")
        assert nodes.hears(LAST, OLD) == "ed25519:bad-signature"
        nodes.start(NEW)
    assert nodes.hears(number, NEW) == ("replayed" if guarded else "replay:sequence-too-old")


@pytest.mark.claim("C-keys-9")
def test_each_key_has_numbers_of_its_own_and_none_is_used_twice(nodes: Nodes) -> None:
    numbers: list[int] = []
    nodes.start(OLD)
    numbers += (nodes.speaker.take_sequence() for _message in range(1500))
    nodes.start(OLD)
    numbers.append(nodes.speaker.take_sequence())
    assert numbers[-1] < NUMBERS_PER_KEY
    rotate(nodes)
    assert nodes.speaker.next_sequence >= NUMBERS_PER_KEY
    numbers += (nodes.speaker.take_sequence() for _message in range(1500))
    nodes.start(NEW)
    numbers.append(nodes.speaker.take_sequence())
    assert numbers[-1] < 2 * NUMBERS_PER_KEY
    assert numbers == sorted(set(numbers))
