"""The lowest loss that a node has seen, so that harm of many rounds does not add up."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Final

import attrs

from qres_core import NodeInfo, canonical, stores
from qres_validation.endorsement import highest

_DOMAIN: Final = b"qres/validation/memory/v1"
_LOSS: Final = struct.Struct("<d")
APPLICATION_ID: Final = 0x5152564D
"""``QRVM`` in ASCII: marks the file's kind in its header."""


@attrs.define(eq=False)
class LossMemory:
    """What a node's votes compare with, in memory and in a node also on disk.

    It is the lowest loss of all models that the node was asked to vote on a change of. With every
    round it counts as higher by a share of itself, so that what will not come again is forgotten.
    """

    forgives: float = 0.0  # that share; 0 remembers nothing
    _lowest: float = math.inf
    _round: int = 0  # the round up to which it has been forgiven
    _database: stores.PrivateDatabase | None = attrs.field(default=None, init=False)
    _written: tuple[float, int] = attrs.field(default=(math.inf, 0), init=False)

    def open(self, node_info: NodeInfo) -> None:
        """Go on with what the node's folder holds, or begin with nothing.

        Raises RoundError: QRES-E602 for a file that is damaged, of another swarm or node, or open
        elsewhere.
        """
        if node_info.data_dir is None or not self.forgives:
            return
        owner = [node_info.swarm, node_info.node_id]

        def fill(database: stores.PrivateDatabase) -> None:
            facts = stores.Facts(database, _DOMAIN)
            facts.lay_out()
            facts.write("owner", owner)
            facts.write("lowest", self._raw())

        kind = stores.StoreKind(
            file="validated_mean.sqlite",
            name="the lowest loss that validated_mean has seen",
            application_id=APPLICATION_ID,
            version=1,
            reader="qres-validation",
            remedy="move it away: the node then votes by losses that it sees from now on",
        )
        database = stores.PrivateDatabase.open(Path(node_info.data_dir), kind, fill)
        try:
            facts = stores.Facts(database, _DOMAIN)
            database.expect_owner(swarm_or_node=(owner, facts.read("owner")))
            try:
                self._set_raw(facts.read("lowest"))
            except (ValueError, TypeError, struct.error) as error:
                raise database.unusable("the record 'lowest' is of another form") from error
        except BaseException:
            database.close()
            raise
        self._database, self._written = database, (self._lowest, self._round)

    def lowest(self, number: int, loss: float) -> float:
        """The lowest loss seen so far, this round's included; asking twice changes nothing.

        Args:
            number: the round.
            loss: of the round's model. One that is not finite is not remembered.
        """
        if not self.forgives or not math.isfinite(loss):
            return loss
        rounds = max(0, number - self._round)
        if math.isfinite(self._lowest):
            self._lowest = min(highest(self._lowest, self.forgives * rounds), loss)
        else:
            self._lowest = loss
        self._round = max(self._round, number)
        return self._lowest

    def keep(self) -> None:
        """Write it down if it changed. Raises RoundError: QRES-E602 when the disk refuses it."""
        if self._database is not None and self._written != (self._lowest, self._round):
            stores.Facts(self._database, _DOMAIN).write("lowest", self._raw())
            self._written = self._lowest, self._round

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._database is not None:
            self._database.close()

    def remember(self) -> bytes:
        """All that is remembered, for a simulation's checkpoint; empty where nothing is."""
        return canonical.dumps(self._raw()) if self._round else b""

    def recall(self, memory: bytes) -> None:
        """Go on with what :meth:`remember` gave.

        Raises ValueError, TypeError, struct.error or WireError for other bytes.
        """
        self._set_raw(canonical.loads(memory, max_bytes=len(memory), max_items=4))

    def _raw(self) -> list[object]:
        return [self._round, _LOSS.pack(self._lowest)]

    def _set_raw(self, value: object) -> None:
        if not canonical.is_list(value) or len(value) != 2:
            raise TypeError("expected a round and a loss")
        number, octets = value
        if type(number) is not int or type(octets) is not bytes or number < 0:
            raise TypeError("expected a round and a loss")
        (loss,) = _LOSS.unpack(octets)
        if math.isnan(loss) or loss == -math.inf:
            raise ValueError("expected a loss")
        self._round, self._lowest = number, float(loss)
