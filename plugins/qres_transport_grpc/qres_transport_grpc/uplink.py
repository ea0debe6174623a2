"""The connection to one hub: kept up, with a proof of who this node is, and bounded both ways.

A hub is whoever has the key of a certificate. It has one connection of each node, under whatever
addresses: a second one would end the first, for ever.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

from qres_carrier import TokenBucket

from qres_core import NODE_ID_BYTES, NodeId
from qres_core.transport import LinkKeys, LinkReason
from qres_transport_grpc.dial import GRPC, WrongHubError, certificate, channel
from qres_transport_grpc.options import MIB, GrpcOptions
from qres_transport_grpc.outbox import Outbox
from qres_transport_grpc.wire import (
    CHALLENGE,
    CHALLENGE_BYTES,
    METHOD,
    READY,
    SMALL_BYTES,
    HubPlace,
    HubProof,
    proof_statement,
)

IN_FLIGHT: Final = 32
"""Messages of a hub that wait for the transport's loop; it reads no more before they are taken."""
SMALL_ROOM: Final = 4 * MIB
AHEAD_BYTES: Final = 256 * 1024
"""Of large messages, another one is made while fewer bytes wait: what is made is not taken back."""
JOIN_SECONDS: Final = 2.0
DOUBLINGS: Final = 4
_REASONS: Final = {
    "PERMISSION_DENIED": LinkReason.REFUSED_BY_PEER,
    "UNAVAILABLE": LinkReason.DIAL_FAILED,
    "CANCELLED": LinkReason.TIMED_OUT,
    "RESOURCE_EXHAUSTED": LinkReason.OVERRAN,
    "ABORTED": LinkReason.REPLACED,
}
_CHANCE: Final = random.SystemRandom()


class Uplink:
    """Dials one hub, for as long as the transport runs.

    Args:
        places: where the hub is: addresses with one digest, of which one after the other is tried.
        node: who this node is.
        swarm: its swarm's name.
        keys: what to prove that with.
        options: limits.
        took: gets each message, in this connection's thread; releases ``room`` once it is handled.
        changed: told when the connection is up, or why it is not.
        drained: told, in a thread of gRPC's, that a large message has left.
    """

    def __init__(
        self,
        places: tuple[HubPlace, ...],
        node: NodeId,
        swarm: str,
        keys: LinkKeys,
        options: GrpcOptions,
        took: Callable[[Uplink, bytes], None],
        changed: Callable[[Uplink, LinkReason | None, str], None],
        drained: Callable[[], None],
    ) -> None:
        self.places = places
        self.place = places[0]  # that is dialled now
        self.up = False
        self._was_up = False
        self.room = threading.BoundedSemaphore(IN_FLIGHT)
        self._node, self._swarm, self._keys = node, swarm, keys
        self._options = options
        self._took, self._changed, self._drained = took, changed, drained
        self._pem = ""
        self._call: Any = None
        self._stop = threading.Event()
        self._wake = threading.Condition()
        self._outbox = Outbox(options.outbox_bytes, SMALL_ROOM)
        self._helpers: set[threading.Thread] = set()  # of gRPC, for this node's calls
        name = f"grpc-{node.hex()[:8]}-{self.place.port}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin to dial."""
        self._thread.start()

    def put(self, message: bytes) -> bool:
        """Queue a message; false where there is no room, or no connection."""
        with self._wake:
            put = self.up and self._outbox.put(message, message[:NODE_ID_BYTES])
            self._wake.notify()
        return put

    def idles(self) -> bool:
        """True if few large messages wait: another one leaves soon."""
        with self._wake:
            return self.up and self._outbox.large < AHEAD_BYTES

    def ask_to_stop(self) -> None:
        """End; what waits to be sent is sent first, if it goes at once."""
        self._stop.set()
        with self._wake:
            self._wake.notify_all()

    def hang_up(self) -> None:
        """End the connection of now; another is dialled, unless this is to stop."""
        call = self._call
        if call is not None:
            call.cancel()

    def join(self) -> None:
        """End at once, and wait for the threads."""
        self.ask_to_stop()
        self.hang_up()
        self._release()
        self._thread.join(JOIN_SECONDS)  # one that still dials ends by itself
        for helper in list(self._helpers):
            helper.join(JOIN_SECONDS)

    def _release(self) -> None:
        """Let a thread that waits for room go on: nobody takes its messages any more."""
        for _ in range(IN_FLIGHT):
            try:
                self.room.release()
            except ValueError:
                return

    # ── the thread ────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            reason, why, was_up = self._once()
            if self._stop.is_set():
                return
            failures = 0 if was_up else failures + 1
            self._changed(self, reason, why)
            if not was_up:
                self.place = self.places[(self.places.index(self.place) + 1) % len(self.places)]
            pause = self._options.reconnect_seconds * 2 ** min(failures, DOUBLINGS)
            self._stop.wait(pause * _CHANCE.uniform(0.5, 1.0))

    def _once(self) -> tuple[LinkReason, str, bool]:
        """Connect and read until it is over: why, and whether the connection was up."""
        over = threading.Event()
        timer = threading.Timer(self._options.dial_seconds, self._give_up)
        timer.daemon = True
        self._helpers = {item for item in list(self._helpers) if item.is_alive()}
        self._outbox = Outbox(self._options.outbox_bytes, SMALL_ROOM)
        self._was_up = False
        try:
            self._pem = self._pem or certificate(self.place, self._options.dial_seconds)
            with channel(self.place, self._pem) as made:
                timer.start()
                self._speak(made, over)
        except WrongHubError as error:
            return LinkReason.REFUSED_KEY, str(error), False
        except GRPC.RpcError as error:
            status: Any = error
            why = f"{status.code().name}: {str(status.details())[:200]}"
            return _REASONS.get(status.code().name, LinkReason.RESET), why, self._was_up
        except (OSError, ValueError, RuntimeError) as error:
            # ValueError: a name or a proxy that is none; RuntimeError: no more threads may start.
            why = getattr(error, "strerror", None) or str(error)
            return LinkReason.DIAL_FAILED, why, False
        else:
            return LinkReason.CLOSED_BY_PEER, "the hub closed the connection", self._was_up
        finally:
            timer.cancel()
            if timer.ident is not None:  # it was started; a closed uplink leaves no thread behind
                timer.join(JOIN_SECONDS)
            with self._wake:
                self.up = False
                over.set()
                self._wake.notify_all()
            self._call = None

    def _speak(self, made: Any, over: threading.Event) -> None:
        """Prove who this node is, then read until the hub ends it."""
        first: list[bytes] = []
        self._call = call = made.stream_stream(METHOD)(self._sent(first, over))
        call.add_callback(lambda: self._helpers.add(threading.current_thread()))
        messages: Iterator[bytes] = iter(call)
        try:
            challenge = dict(call.initial_metadata()).get(CHALLENGE, b"")
            if len(challenge) != CHALLENGE_BYTES:
                next(messages, b"")  # raises what the call came to
                return
            statement = proof_statement(self._swarm, self.place.digest, challenge, self._node)
            with self._wake:
                first.append(HubProof(self._node, self._keys.sign(statement)).dumps())
                self._wake.notify_all()
            if next(messages, b"") != READY:
                return
            with self._wake:
                self.up = self._was_up = True
            self._changed(self, None, "")
            self._read(messages)
        finally:
            call.cancel()

    def _give_up(self) -> None:
        if not self.up:
            self.hang_up()

    def _read(self, messages: Iterator[bytes]) -> None:
        bucket = TokenBucket(self._options.hub_per_second, self._options.hub_burst)
        for message in messages:
            if wait := bucket.wait():
                self._stop.wait(min(wait, 60.0))  # the hub's window closes meanwhile
            self.room.acquire()
            if self._stop.is_set():
                return
            self._took(self, message)

    def _sent(self, first: list[bytes], over: threading.Event) -> Iterator[bytes]:
        """Messages for gRPC, in a thread of its own, each once the one before has left."""
        self._helpers.add(threading.current_thread())
        while (message := self._next(first, over)) is not None:
            yield message

    def _next(self, first: list[bytes], over: threading.Event) -> bytes | None:
        message: bytes | None = None
        with self._wake:
            while not over.is_set():
                message = first.pop() if first else self._outbox.pop() if self.up else None
                if message is not None or self._stop.is_set():
                    break
                self._wake.wait()
            else:
                return None
        if message is not None and len(message) > SMALL_BYTES:
            self._drained()
        return message
