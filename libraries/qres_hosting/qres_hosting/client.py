"""A client's end of hosted rounds: it hides, proves and signs what it sends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from qres_core.contract.dialogue import HostedDialogue
from qres_core.contract.errors import CompatibilityError, ConfigError, RoundError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import DIGEST_BYTES, Update
from qres_core.contract.wire import NUMBERS_PER_KEY, Envelope
from qres_core.kernel.remedies import enable
from qres_core.swarm.contributions.lone_round import protected
from qres_core.swarm.ledger.messages import CONTRIBUTION
from qres_core.swarm.storage.dialogue_log import dialogue_kind
from qres_hosting.answered import note_answer
from qres_hosting.host import Host
from qres_hosting.partaking import Partaking, hosted
from qres_hosting.retold import Happening, Retold
from qres_hosting.told import HostedRound, members_digest
from qres_hosting.turns import HostedTurn

NO_TASK: Final = bytes(DIGEST_BYTES)
"""Where a framework says nothing beside the model."""
REPORT: Final = "hosted/report"
"""Kind of the messages with which clients say something beside an update."""
_PER_MILLISECOND: Final = 64
"""Sequence numbers of a client in a millisecond. They follow its clock, so that a process that
knows nothing of the one before goes on above it; they last until the year 2109."""


class HostedClient:
    """One member's plugins, for one message or many. A context manager.

    Args:
        host: the configuration.
        index: which of the made members of an experiment it is; ``None`` for a real one, whose key
            the configuration names.
        clock: nanoseconds since 1970.

    Raises:
        ConfigError: QRES-E103 where it is not said which made member it is; QRES-E105 where the
            member is none of ``swarm.roster``.
        CompatibilityError: QRES-E306 where no plugin tells who the member is.
        QresError: what a plugin's ``setup`` refuses.

    Attributes:
        node_id: who it is, 32 bytes.
    """

    def __init__(
        self,
        host: Host,
        index: int | None = None,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.host, self._clock = host, clock
        self._kernel = host.kernel()
        self._told: HostedRound | None = None
        self._info: RoundInfo | None = None
        self._last = -1
        lab_id = None if host.seed is None or index is None else host.lab_id(index)
        if host.seed is not None and lab_id is None:
            what = "the members are made for an experiment, and it is not said which one this is"
            raise ConfigError.of("QRES-E103", "client", what, "give its number, from 0")
        node_id = self._kernel.identity(lab_id) or lab_id
        if node_id is None:
            what = "no enabled plugin tells who this client is"
            raise CompatibilityError.of("QRES-E306", "plugins", what, enable("authenticate"))
        self.node_id = node_id
        if node_id.hex() not in host.config.swarm.roster:
            what = f"{node_id.hex()}, whose key this client has, is no member"
            fix = "add the identity to swarm.roster at all ends, and to swarm.nodes"
            raise ConfigError.of("QRES-E105", "swarm.roster", what, fix)
        # Nobody asks a client to judge: the coordinator does, by its own examples.
        folder = "" if index is None else f"client-{index}"
        node_info = host.node_info(
            node_id, validates=True, references=True, pooled=True, folder=folder
        )
        self._folder = node_info.data_dir
        self._kernel.setup(node_info)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Release what the plugins hold. The client is of no use then."""
        self._told = self._info = None
        self._kernel.teardown()

    # ── a round ───────────────────────────────────────────────────────────────────────────────

    def begin(
        self, announced: bytes, model: bytes, dimension: int, task: bytes = NO_TASK
    ) -> RoundInfo:
        """Take part in a round, or in an evaluation, as the coordinator announced it.

        Args:
            announced: an encoded :class:`~qres_hosting.HostedRound`, not trusted.
            model: digest of the model that the client was given, 32 bytes.
            dimension: its coordinates.
            task: digest of all else that it was asked to do, 32 bytes, as this client finds it.

        Raises:
            WireError: QRES-E401 to QRES-E406 for what is no announcement.
            RoundError: QRES-E604 where settings, members, model or task are others than the
                coordinator's, and where a member that is real answered the announcement before;
                QRES-E602 where that cannot be kept.
            CompatibilityError: what does not fit a model of that many coordinates.
        """
        told = self._checked(announced)
        if told.model != model:
            what = "the model that came is another than the coordinator announced"
            raise RoundError.of("QRES-E604", "round.model", what)
        if told.task != task:
            what = "this client is asked to do something else than the coordinator announced"
            fix = "the same settings for all clients of a round, and those of the run at both ends"
            raise RoundError.of("QRES-E604", "round.task", what, fix)
        self._kernel.fit(dimension)
        if self.host.seed is None:  # an experiment repeats its rounds, whose nonces follow from it
            folder = self.host.config.node.data_dir
            note_answer(self.node_id, told.nonce, None if folder is None else Path(folder))
        self._told, self._info = told, told.info(self.host.config.swarm, dimension)
        return self._info

    def _checked(self, announced: bytes) -> HostedRound:
        """The round that was announced, with the settings and members of this client."""
        told = HostedRound.from_bytes(announced)
        own = self._kernel.settings
        if told.settings != own.digest:
            what = (
                f"the coordinator has the settings {told.settings.hex()[: len(own.short)]}, and "
                f"this client {own.short}"
            )
            fix = "give both the same configuration; `qres check` prints its settings"
            raise RoundError.of("QRES-E604", "round.settings", what, fix)
        if told.members != members_digest(self.host.config.swarm):
            what = "the coordinator has other members than this client, or another number of them"
            fix = "the same swarm.roster, nodes, byzantine and quorum at all ends"
            raise RoundError.of("QRES-E604", "round.members", what, fix)
        return told

    # ── the dialogues of a round ──────────────────────────────────────────────────────────────

    def converse(self, asked: bytes) -> tuple[bytes, ...]:
        """Answer a turn of the round's dialogues, before its update or after it.

        Each turn is answered once, and the same turn again by the same bytes.

        Args:
            asked: an encoded :class:`~qres_hosting.HostedTurn`, not trusted.

        Returns: signed messages for all clients.

        Raises:
            WireError: QRES-E401 to QRES-E406 for what is no turn.
            RoundError: QRES-E604 where settings or members are others than the coordinator's, for
                a turn that is not the next, and for another question in one that was answered;
                QRES-E602 where what was said cannot be kept.
            CompatibilityError: QRES-E322 for a plugin whose nodes would talk to each other.
        """
        swarm = self.host.config.swarm
        turn = HostedTurn.from_bytes(asked, len(swarm.roster))
        told = self._checked(turn.told)
        self._kernel.fit(turn.dimension)
        info = told.info(swarm, turn.dimension)
        place = told.nonce, turn.told, turn.dimension
        with self._kept() as file:
            if turn.number == 0:
                file.begin(*place)
            known = file.answered(told.nonce, turn.number, asked)
            if known is not None:
                return known
            secret = file.secret(*place)
            part = Partaking(self._opened(info), info, told.nonce, file)
            part.play(secret)
            now = self._clock() / 10**9
            heard = part.authentic(turn.frames, self.node_id, self._kernel, now)
            named = {
                name: turn.summaries[name] for name in part.dialogues if name in turn.summaries
            }
            happened = Happening(turn.number, heard, named)
            frames = tuple(
                self._signed(dialogue_kind(name, step), body, info)
                for name, step, body in part.hear(happened)
            )
            return file.add(told.nonce, part.events, happened, asked, frames, over=part.over)

    def _opened(self, info: RoundInfo) -> dict[str, HostedDialogue]:
        """The dialogues of a round. Raises CompatibilityError: QRES-E322."""
        return hosted(self._kernel.round_opened(info))

    def _kept(self) -> Retold:
        """Memory of this client for dialogues. Raises RoundError: QRES-E602. Raises ConfigError."""
        if self._folder is None:
            what = "not set, and the dialogues of a round must outlive the process"
            raise ConfigError.of("QRES-E103", "node.data_dir", what, "name a folder")
        return Retold(Path(self._folder), again=self.host.seed is not None)

    # ── what leaves the client ────────────────────────────────────────────────────────────────

    def contribute(self, update: Update) -> bytes:
        """The update as it leaves the client: hidden, proved and signed. O(d), and the plugins'.

        Raises:
            CompatibilityError: QRES-E322 for a plugin whose nodes would talk to each other.
            RoundError: QRES-E604 where a dialogue of the round has not come to where updates may be
                given, or one was given before.
            QresError: what a plugin refused; then nothing may be sent.
        """
        info = self._round()
        dialogues = self._opened(info)
        if not dialogues:
            return self._contribution(update, info)
        assert self._told is not None  # noqa: S101 - of the same round
        nonce = self._told.nonce
        with self._kept() as file:
            secret = file.secret(nonce, self._told.to_bytes(), info.dimension)
            part = Partaking(dialogues, info, nonce, file)
            part.play(secret)
            part.expect_ready()
            frame = self._contribution(update, info)
            file.add(nonce, part.events, part.given())
            return frame

    def _contribution(self, update: Update, info: RoundInfo) -> bytes:
        made = protected(self._kernel, update, info)
        return self._signed(CONTRIBUTION, made.to_bytes(), info)

    def report(self, payload: bytes) -> bytes:
        """A signed message with something beside the update, for example figures."""
        return self._signed(REPORT, payload, self._round())

    def _round(self) -> RoundInfo:
        if self._info is None:
            raise RoundError.of("QRES-E604", "round", "none is open", "call begin first")
        return self._info

    def _signed(self, kind: str, payload: bytes, info: RoundInfo) -> bytes:
        now = self._clock()
        first = self._kernel.key_index(self.node_id) * NUMBERS_PER_KEY
        number = max(now * _PER_MILLISECOND // 10**6, self._last + 1)
        self._last = number
        envelope = Envelope(
            info.swarm,
            kind,
            info.number,
            info.head,
            self.node_id,
            first + number,
            now // 10**6,
            payload,
        )
        return self._kernel.sign(envelope).to_bytes()
