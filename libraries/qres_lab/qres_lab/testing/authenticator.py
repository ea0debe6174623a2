"""Duties of every authenticator, as tests to inherit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import attrs

from qres_core.contract.errors import PluginError
from qres_core.contract.types import NodeId
from qres_core.contract.verdict import ACCEPT, Blame, Verdict
from qres_core.contract.wire import MAX_AUTHENTICATOR, Envelope
from qres_lab.testing.builders import make_envelope, make_node_ids
from qres_lab.testing.hosting import host
from qres_lab.testing.rules import broken

_MAX_FLIPS: Final = 2048
_OTHER: Final = b"\xa5" * 32


class AuthenticatorContract:
    """Conformance suite of the ``sign`` and ``authenticate`` hooks.

    Example::

        class TestMac(AuthenticatorContract):
            name = "mac"

            def make(self) -> object:
                return Mac(key_hex="00" * 32)

    Attributes:
        name: the plugin's name, under which its authenticator travels. Required.
    """

    name: ClassVar[str]

    def make(self) -> object:
        """A fresh plugin instance that can both sign and authenticate. Must be repeatable."""
        msg = f"{type(self).__name__} must define make()"
        raise NotImplementedError(msg)

    def sender(self) -> NodeId:
        """The identity that :meth:`make`'s plugin signs for, 32 bytes."""
        return make_node_ids(1)[0]

    # ── the rules ─────────────────────────────────────────────────────────────────────────────

    def test_auth_1_is_a_plugin(self) -> None:
        """QRES-AUTH-1: an attrs class with both halves of the family."""
        try:
            manager = host(self.make(), name=self.name)
        except PluginError as error:
            broken("QRES-AUTH-1", str(error), error)
        for hook in ("sign", "authenticate"):
            if not getattr(manager.hook, hook).get_hookimpls():
                broken("QRES-AUTH-1", f"there is no {hook} hook")

    def test_auth_2_accepts_its_own(self) -> None:
        """QRES-AUTH-2: a signed message is accepted, more than once, for any payload."""
        plugin = self.make()
        for payload in (b"", b"payload", bytes(100_000)):
            signed = self._signed(plugin, payload)
            for _again in range(2):
                verdict = self._verdict("QRES-AUTH-2", plugin, signed)
                if verdict is not ACCEPT:
                    broken("QRES-AUTH-2", f"its own signature was rejected: {verdict.reason}")

    def test_auth_3_rejects_the_unsigned(self) -> None:
        """QRES-AUTH-3: no authenticator, an empty, a short or a long one is rejected."""
        plugin = self.make()
        signed = self._signed(plugin, b"payload")
        good = signed.auth[self.name]
        forged = {
            "no authenticator": {},
            "an empty authenticator": {self.name: b""},
            "a truncated authenticator": {self.name: good[:-1]},
            "a lengthened authenticator": {self.name: good + b"\0"},
            "the authenticator under another name": {f"{self.name}x": good},
            "zeros": {self.name: bytes(len(good))},
        }
        for what, auth in forged.items():
            self._refused("QRES-AUTH-3", plugin, signed.with_auth(auth), what)

    def test_auth_4_rejects_bit_flips(self) -> None:
        """QRES-AUTH-4: every flipped bit of the authenticator (2048 of them at most) is noticed."""
        plugin = self.make()
        signed = self._signed(plugin, b"payload")
        good = signed.auth[self.name]
        stride = max(1, len(good) * 8 // _MAX_FLIPS)
        for bit in range(0, len(good) * 8, stride):
            bad = bytearray(good)
            bad[bit // 8] ^= 1 << bit % 8
            forged = signed.with_auth({self.name: bytes(bad)})
            self._refused("QRES-AUTH-4", plugin, forged, f"bit {bit} of the authenticator flipped")

    def test_auth_5_binds_every_field(self) -> None:
        """QRES-AUTH-5: an authenticator says nothing about any other message."""
        plugin = self.make()
        for what, forged in self._transplants(self._signed(plugin, b"payload")):
            self._refused("QRES-AUTH-5", plugin, forged, f"another {what} under the old signature")

    def test_auth_6_blames_no_sender(self) -> None:
        """QRES-AUTH-6: whoever is named as the sender of a forgery did not make it."""
        plugin = self.make()
        signed = self._signed(plugin, b"payload")
        forgeries = dict(self._transplants(signed))
        forgeries["authenticator (missing)"] = signed.with_auth({})
        for what, forged in forgeries.items():
            verdict = self._verdict("QRES-AUTH-6", plugin, forged)
            if verdict.blame is Blame.SENDER:
                broken("QRES-AUTH-6", f"a forgery with another {what} blamed the claimed sender")

    def test_auth_7_quotes_last(self) -> None:
        """QRES-AUTH-7: a quoted message is accepted at any time, and a forged one never."""
        plugin = self.make()
        signed = self._signed(plugin, b"payload")
        verdict = self._verdict("QRES-AUTH-7", plugin, signed, quoted=True)
        if verdict is not ACCEPT:
            what = f"its own signature was rejected in a quote of another time: {verdict.reason}"
            broken("QRES-AUTH-7", what)
        for what, forged in self._transplants(signed):
            if self._verdict("QRES-AUTH-7", plugin, forged, quoted=True).accepted:
                broken("QRES-AUTH-7", f"accepted in a quote: another {what} under the signature")

    # ── how they are checked ──────────────────────────────────────────────────────────────────

    def _signed(self, plugin: object, payload: bytes) -> Envelope:
        envelope = make_envelope(sender=self.sender(), payload=payload)
        results = host(plugin, name=self.name).hook.sign(envelope=envelope)
        if len(results) != 1 or type(results[0]) is not bytes:
            broken("QRES-AUTH-2", f"sign returned {results!r}, not bytes")
        if len(results[0]) > MAX_AUTHENTICATOR:
            broken("QRES-AUTH-2", f"sign returned more than {MAX_AUTHENTICATOR} bytes")
        return envelope.with_auth({self.name: results[0]})

    def _verdict(
        self, rule: str, plugin: object, envelope: Envelope, *, quoted: bool = False
    ) -> Verdict:
        __tracebackhide__ = True
        source = make_node_ids(2)[1]
        now = 0.0 if quoted else envelope.time_ms / 1000
        try:
            results = host(plugin, name=self.name).hook.authenticate(
                envelope=envelope, source=source, now=now, quoted=quoted
            )
        except Exception as error:  # noqa: BLE001 - whatever a plugin raises
            broken(rule, f"authenticate raised {type(error).__name__}: {error}", error)
        if len(results) != 1 or type(results[0]) is not Verdict:
            broken(rule, f"authenticate returned {results!r}, not a Verdict")
        return results[0]

    def _refused(self, rule: str, plugin: object, forged: Envelope, what: str) -> None:
        __tracebackhide__ = True
        if self._verdict(rule, plugin, forged).accepted:
            broken(rule, f"accepted: {what}")

    def _transplants(self, signed: Envelope) -> Iterator[tuple[str, Envelope]]:
        changes: dict[str, Any] = {
            "swarm": f"{signed.swarm}2",
            "kind": "vote",
            "round": signed.round + 1,
            "head": _OTHER,
            "sender": _OTHER,
            "sequence": signed.sequence + 1,
            "time_ms": signed.time_ms + 1,
            "payload": signed.payload + b"!",
        }
        for field, value in changes.items():
            yield field, attrs.evolve(signed, **{field: value})
