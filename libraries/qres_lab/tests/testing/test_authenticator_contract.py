"""The authenticator suite: broken authenticators must fail the rule they break."""

from __future__ import annotations

import hmac
import inspect
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from qres_lab.testing import RULES, AuthenticatorContract, ContractViolationError

from qres_core import ACCEPT, Blame, Envelope, Verdict, hookimpl, reject

METHODS = {
    re.sub(r"^test_auth_(\d+)_.*", r"QRES-AUTH-\1", name): name
    for name, _function in inspect.getmembers(AuthenticatorContract, inspect.isfunction)
    if name.startswith("test_auth_")
}


def violated(factory: Callable[[], object], rule: str) -> ContractViolationError | None:
    body: dict[str, Any] = {"name": "mac", "make": lambda _self: factory()}
    suite = type("Suite", (AuthenticatorContract,), body)()
    try:
        getattr(suite, METHODS[rule])()
    except ContractViolationError as error:
        return error
    return None


@attrs.frozen
class Mac:
    key: bytes = b"k" * 32

    def tag(self, envelope: Envelope) -> bytes:
        return hmac.digest(self.key, envelope.signing_digest, "sha256")

    def judge(self, envelope: Envelope, tag: bytes) -> Verdict:
        if hmac.compare_digest(self.tag(envelope), tag):
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return self.tag(envelope)

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        return self.judge(envelope, envelope.auth.get("mac", b""))


class NotAttrsMac:
    @hookimpl
    def sign(self) -> bytes:
        return b""


@attrs.frozen
class OneHalf:
    @hookimpl
    def sign(self) -> bytes:
        return b""


@attrs.frozen
class RejectsAll(Mac):
    def judge(self, envelope: Envelope, tag: bytes) -> Verdict:
        del envelope, tag
        return reject("no", blame=Blame.LINK)


@attrs.frozen
class ForgetsReturn(Mac):
    @hookimpl
    def authenticate(self, envelope: Envelope) -> None:
        self.judge(envelope, envelope.auth.get("mac", b""))


@attrs.frozen
class TruthInPlaceOfVerdict(Mac):
    @hookimpl
    def authenticate(self, envelope: Envelope) -> bool:
        return self.judge(envelope, envelope.auth.get("mac", b"")).accepted


@attrs.frozen
class AcceptsTheUnsigned(Mac):
    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        return self.judge(envelope, envelope.auth.get("mac", self.tag(envelope)))


@attrs.frozen
class ComparesAPrefix(Mac):
    def judge(self, envelope: Envelope, tag: bytes) -> Verdict:
        if len(tag) == 32 and tag[:31] == self.tag(envelope)[:31]:
            return ACCEPT
        return reject("bad-tag", blame=Blame.LINK)


@attrs.frozen
class SignsThePayloadOnly(Mac):
    def tag(self, envelope: Envelope) -> bytes:
        return hmac.digest(self.key, envelope.payload_digest, "sha256")


@attrs.frozen
class ForgetsTheTime(Mac):
    def tag(self, envelope: Envelope) -> bytes:
        return super().tag(attrs.evolve(envelope, time_ms=0))


@attrs.frozen
class BlamesTheSender(Mac):
    def judge(self, envelope: Envelope, tag: bytes) -> Verdict:
        if hmac.compare_digest(self.tag(envelope), tag):
            return ACCEPT
        return reject("bad-tag", blame=Blame.SENDER)


@attrs.frozen
class JudgesQuotesByTheClock(Mac):
    @hookimpl
    def authenticate(  # type: ignore[override]
        self, envelope: Envelope, now: float
    ) -> Verdict:
        if abs(now - envelope.time_ms / 1000) > 60:
            return reject("expired")
        return self.judge(envelope, envelope.auth.get("mac", b""))


@attrs.frozen
class BelievesQuotes(Mac):
    @hookimpl
    def authenticate(  # type: ignore[override]
        self,
        envelope: Envelope,
        quoted: bool,  # noqa: FBT001 - a hook's argument
    ) -> Verdict:
        return ACCEPT if quoted else self.judge(envelope, envelope.auth.get("mac", b""))


BROKEN = [
    (NotAttrsMac, "QRES-AUTH-1"),
    (OneHalf, "QRES-AUTH-1"),
    (RejectsAll, "QRES-AUTH-2"),
    (ForgetsReturn, "QRES-AUTH-2"),
    (TruthInPlaceOfVerdict, "QRES-AUTH-2"),
    (AcceptsTheUnsigned, "QRES-AUTH-3"),
    (ComparesAPrefix, "QRES-AUTH-4"),
    (SignsThePayloadOnly, "QRES-AUTH-5"),
    (ForgetsTheTime, "QRES-AUTH-5"),
    (BlamesTheSender, "QRES-AUTH-6"),
    (JudgesQuotesByTheClock, "QRES-AUTH-7"),
    (BelievesQuotes, "QRES-AUTH-7"),
]


@pytest.mark.parametrize("rule", METHODS)
def test_a_sound_authenticator_passes(rule: str) -> None:
    assert violated(Mac, rule) is None


@pytest.mark.parametrize(("factory", "rule"), BROKEN)
def test_broken_authenticators_fail_the_rule_they_break(
    factory: Callable[[], object], rule: str
) -> None:
    error = violated(factory, rule)
    assert error is not None, f"{factory.__name__} passed {rule}"
    assert error.rule == rule


def test_every_rule_has_a_test_and_a_positive_control() -> None:
    stated = {rule for rule in RULES if rule.startswith("QRES-AUTH-")}
    assert set(METHODS) == stated
    assert {rule for _factory, rule in BROKEN} == stated


def test_make_must_be_defined() -> None:
    with pytest.raises(NotImplementedError, match="make"):
        AuthenticatorContract().make()
