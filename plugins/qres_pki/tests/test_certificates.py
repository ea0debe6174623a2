"""Each reason to refuse, beside a message that differs in that alone and is accepted."""

from __future__ import annotations

import hashlib
import math
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qres_pki.issuer import raw_key
from qres_pki.membership import MAX_CACHED, Membership
from qres_pki.profile import MAX_CERTIFICATE

from qres_core import ACCEPT, Blame, Verdict
from qres_core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400
NOW = 1_700_000_000
VOTING = ("proposal", "prevote", "precommit", "lock")
KINDS = (
    "certificate",
    *(f"{instance}/{kind}" for instance in ("choice", "outcome") for kind in VOTING),
    "roster/change",
)
OPEN = (
    *("fetch", "fetched", "sync", "links", "fetch-model", "model", "dialogue/secagg/1"),
    *("attestation", "enough", "stop"),
)
"""Kinds that carry their own proof, ask for something, or count only with those of many."""


def refused(verdict: Verdict, reason: str, blame: Blame = Blame.LINK) -> None:
    assert not verdict.accepted
    assert (verdict.reason, verdict.blame) == (reason, blame)


@pytest.mark.control("C-pki-3")
def test_an_honest_message_is_accepted(swarm: Any) -> None:
    other = swarm.issue(swarm.b).certificate
    plugin = swarm.pki()
    assert swarm.ask(plugin, swarm.b, other) is ACCEPT
    own = plugin.sign(swarm.envelope(swarm.a, None))
    assert swarm.ask(plugin, swarm.a, own) is ACCEPT
    assert plugin.admit(swarm.b, other) is ACCEPT


def test_none_garbage_and_too_much(swarm: Any) -> None:
    good = swarm.issue(swarm.b).certificate
    plugin = swarm.pki()
    refused(swarm.ask(plugin, swarm.b, None), "no-certificate")
    refused(swarm.ask(plugin, swarm.b, b""), "no-certificate")
    refused(swarm.ask(plugin, swarm.b, b"garbage"), "malformed-certificate")
    refused(swarm.ask(plugin, swarm.b, good[:-1]), "malformed-certificate")
    refused(swarm.ask(plugin, swarm.b, good + b"\0"), "malformed-certificate")
    refused(swarm.ask(plugin, swarm.b, bytes(MAX_CERTIFICATE)), "malformed-certificate")
    refused(swarm.ask(plugin, swarm.b, bytes(MAX_CERTIFICATE + 1)), "certificate-too-large")
    pem = (swarm.certificates / f"{swarm.b.hex()}.pem").read_bytes()
    refused(swarm.ask(plugin, swarm.b, pem), "malformed-certificate")
    refused(plugin.admit(swarm.b, b""), "no-certificate")
    envelope = swarm.envelope(swarm.b, None).with_auth({"pki2": good})
    refused(plugin.authenticate(envelope, NOW, quoted=False), "no-certificate")


def test_a_large_certificate_of_the_ca_is_too_large(swarm: Any) -> None:
    filler = [x509.UniformResourceIdentifier(f"urn:filler:{i}:{'x' * 60}") for i in range(30)]
    own = x509.UniformResourceIdentifier(f"did:qres:{swarm.b.hex()}")
    role = x509.UniformResourceIdentifier("urn:qres:role:train")
    plugin = swarm.pki()
    for names, reason in ((filler, "certificate-too-large"), (filler[:5], "")):
        value = x509.SubjectAlternativeName([own, role, *names])
        verdict = swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, add=[(value, False)]))
        assert verdict.reason == reason


@pytest.mark.claim("C-trust-5")
def test_other_issuers(swarm: Any, make_swarm: Callable[[str, str], Any]) -> None:
    plugin = swarm.pki()
    stranger = make_swarm("other", "other-swarm").issue(swarm.b).certificate
    refused(swarm.ask(plugin, swarm.b, stranger), "unknown-issuer")
    impostor = make_swarm("same-name", "testing")
    assert impostor.ca.read_bytes() != swarm.ca.read_bytes()
    forged = impostor.issue(swarm.b).certificate
    refused(swarm.ask(plugin, swarm.b, forged), "unknown-issuer")
    subject = x509.load_pem_x509_certificate(swarm.ca.read_bytes()).subject
    assert x509.load_der_x509_certificate(forged).issuer == subject


def test_a_certificate_by_the_ca_under_another_issuer_name(swarm: Any) -> None:
    plugin = swarm.pki()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
    refused(swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, issuer=name)), "unknown-issuer")
    assert swarm.ask(plugin, swarm.b, swarm.odd(swarm.b)) is ACCEPT


@pytest.mark.claim("C-trust-5")
def test_self_signed_by_the_node(swarm: Any) -> None:
    plugin = swarm.pki()
    own = Ed25519PrivateKey.generate()
    refused(swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, signer=own)), "unknown-issuer")


def test_the_ca_certificate_itself_is_no_nodes(swarm: Any) -> None:
    plugin = swarm.pki()
    ca = x509.load_pem_x509_certificate(swarm.ca.read_bytes())
    der = ca.public_bytes(Encoding.DER)
    key = raw_key(ca)
    refused(swarm.ask(plugin, key, der), "certificate-unsuitable")


def test_a_node_cannot_issue(swarm: Any) -> None:
    """A certificate that a member signed with its own key, whatever issuer it names."""
    swarm.issue(swarm.b)
    plugin = swarm.pki()
    member = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"b").digest())
    member_name = x509.load_pem_x509_certificate(
        (swarm.certificates / f"{swarm.b.hex()}.pem").read_bytes()
    ).subject
    for issuer in (None, member_name):
        forged = swarm.odd(swarm.c, signer=member, issuer=issuer)
        refused(swarm.ask(plugin, swarm.c, forged), "unknown-issuer")


@pytest.mark.claim("C-trust-5")
def test_another_key(swarm: Any) -> None:
    certificate = swarm.issue(swarm.b).certificate
    plugin = swarm.pki()
    refused(swarm.ask(plugin, swarm.c, certificate), "certificate-of-another-key")
    refused(plugin.admit(swarm.c, certificate), "certificate-of-another-key")
    assert swarm.ask(plugin, swarm.b, certificate) is ACCEPT


@pytest.mark.claim("C-trust-5")
def test_another_swarm(swarm: Any) -> None:
    plugin = swarm.pki()
    refused(
        swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, swarm="testing2")),
        "certificate-of-another-swarm",
    )
    assert swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, swarm="testing")) is ACCEPT


def test_unsuitable_certificates(swarm: Any) -> None:
    plugin = swarm.pki()
    own = x509.UniformResourceIdentifier(f"did:qres:{swarm.b.hex()}")
    other = x509.UniformResourceIdentifier(f"did:qres:{swarm.c.hex()}")
    role = x509.UniformResourceIdentifier("urn:qres:role:train")
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=True,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0")
    odd = {
        "no key usage": {"drop": x509.KeyUsage},
        "no constraints": {"drop": x509.BasicConstraints},
        "no names": {"drop": x509.SubjectAlternativeName},
        "no did": {"add": [(x509.SubjectAlternativeName([role]), False)]},
        "another did": {"add": [(x509.SubjectAlternativeName([other, role]), False)]},
        "two dids": {"add": [(x509.SubjectAlternativeName([own, other, role]), False)]},
        "a CA": {"add": [(x509.BasicConstraints(ca=True, path_length=None), True)]},
        "may not sign": {"add": [(usage, True)]},
        "critical and unknown": {"add": [(unknown, True)]},
        "an Ed448 key": {"public_key": Ed448PrivateKey.generate().public_key()},
    }
    for what, changes in odd.items():
        verdict = swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, **changes))
        assert (what, verdict.reason) == (what, "certificate-unsuitable")
        assert verdict.blame is Blame.LINK
    assert swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, add=[(unknown, False)])) is ACCEPT
    names = x509.SubjectAlternativeName([own, role])
    assert swarm.ask(plugin, swarm.b, swarm.odd(swarm.b, add=[(names, True)])) is ACCEPT


def test_validity_to_the_second(swarm: Any) -> None:
    start, end = NOW - DAY, NOW + 29 * DAY
    certificate = swarm.issue(swarm.b, start=start, days=30).certificate
    plugin = swarm.pki(clock=NOW, require_crl=False)
    for now, reason in {
        start - 1: "certificate-not-yet-valid",
        start: "",
        end: "",
        end + 1: "certificate-expired",
    }.items():
        assert swarm.ask(plugin, swarm.b, certificate, now=now).reason == reason
        plugin.clock = lambda now=now: now
        assert plugin.admit(swarm.b, certificate).reason == reason
    assert swarm.ask(plugin, swarm.b, certificate, now=end + 1).blame is Blame.NOBODY
    assert swarm.ask(plugin, swarm.b, certificate, now=start - 1).blame is Blame.NOBODY


@pytest.mark.claim("C-pki-3")
def test_the_ca_must_be_valid_too(swarm: Any) -> None:
    certificate = swarm.issue(swarm.b, start=NOW - 200 * DAY, days=1000).certificate
    plugin = swarm.pki(require_crl=False)
    start = NOW - 100 * DAY
    end = start + 1000 * DAY
    for now in (start - 1, end + 1, math.nan, math.inf, -math.inf):
        verdict = swarm.ask(plugin, swarm.b, certificate, now=now)
        refused(verdict, "ca-certificate-not-valid-now", Blame.NOBODY)
    for now in (start, end):
        assert swarm.ask(plugin, swarm.b, certificate, now=now) is ACCEPT


@pytest.mark.claim("C-trust-5")
def test_revoked(swarm: Any) -> None:
    certificate = swarm.issue(swarm.b).certificate
    swarm.issue(swarm.c)
    plugin = swarm.pki()
    assert swarm.ask(plugin, swarm.b, certificate) is ACCEPT
    swarm.revoke(swarm.b)
    refused(swarm.ask(plugin, swarm.b, certificate), "certificate-revoked", Blame.NOBODY)
    refused(plugin.admit(swarm.b, certificate), "certificate-revoked", Blame.NOBODY)
    own = plugin.sign(swarm.envelope(swarm.a, None))
    assert swarm.ask(plugin, swarm.a, own) is ACCEPT


@pytest.mark.claim("C-trust-6")
def test_a_revocation_stands_before_its_date(swarm: Any) -> None:
    """Virtual clocks are behind the CA's; a CRL from the future can only take away."""
    certificate = swarm.issue(swarm.b).certificate
    swarm.revoke(swarm.b, now=NOW + 10 * DAY)
    plugin = swarm.pki()
    refused(swarm.ask(plugin, swarm.b, certificate), "certificate-revoked", Blame.NOBODY)


def test_a_new_certificate_after_revocation_is_accepted(swarm: Any) -> None:
    old = swarm.issue(swarm.b).certificate
    plugin = swarm.pki()
    swarm.revoke(swarm.b)
    new = swarm.issue(swarm.b, out=swarm.folder / "second").certificate
    refused(swarm.ask(plugin, swarm.b, old), "certificate-revoked", Blame.NOBODY)
    assert swarm.ask(plugin, swarm.b, new) is ACCEPT


@pytest.mark.claim("C-pki-3")
def test_an_expired_crl_refuses_everybody(swarm: Any) -> None:
    certificate = swarm.issue(swarm.b, days=100).certificate
    strict, lax = swarm.pki(), swarm.pki(require_crl=False)
    end = NOW + 30 * DAY
    assert swarm.ask(strict, swarm.b, certificate, now=end) is ACCEPT
    refused(swarm.ask(strict, swarm.b, certificate, now=end + 1), "crl-expired", Blame.NOBODY)
    assert swarm.ask(lax, swarm.b, certificate, now=end + 1) is ACCEPT
    swarm.renew_crl(NOW + DAY)
    assert swarm.ask(strict, swarm.b, certificate, now=end + 1) is ACCEPT
    swarm.revoke(swarm.b)
    revoked = swarm.ask(lax, swarm.b, certificate, now=end + 2 * DAY)
    refused(revoked, "certificate-revoked", Blame.NOBODY)


@pytest.mark.claim("C-pki-2")
@pytest.mark.parametrize("kind", ["contribution", *KINDS, *OPEN])
def test_roles(swarm: Any, kind: str) -> None:
    trainer = swarm.issue(swarm.b, ["train"]).certificate
    voter = swarm.issue(swarm.c, ["aggregate"]).certificate
    plugin = swarm.pki()
    trained = swarm.ask(plugin, swarm.b, trainer, kind=kind)
    voted = swarm.ask(plugin, swarm.c, voter, kind=kind)
    if kind in KINDS:
        refused(trained, "role-missing")
    else:
        assert trained is ACCEPT
    if kind == "contribution":
        refused(voted, "role-missing")
    else:
        assert voted is ACCEPT
    assert plugin.admit(swarm.b, trainer) is ACCEPT
    assert plugin.admit(swarm.c, voter) is ACCEPT


@pytest.mark.claim("C-pki-2")
def test_a_role_nobody_knows_grants_nothing(swarm: Any) -> None:
    plugin = swarm.pki()
    names = [f"did:qres:{swarm.b.hex()}", "urn:qres:role:admin", "urn:qres:train"]
    value = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(name) for name in names])
    odd = swarm.odd(swarm.b, add=[(value, False)])
    for kind in ("contribution", "choice/prevote", "sync"):
        refused(swarm.ask(plugin, swarm.b, odd, kind=kind), "role-missing")
    refused(plugin.admit(swarm.b, odd), "role-missing")


def test_whitelists(swarm: Any, tmp_path: Path) -> None:
    file = tmp_path / "members.txt"
    file.write_text(f"# two\n{swarm.b.hex()}\n{swarm.b.hex().upper()}\n")
    plugin = swarm.start(
        swarm.a, members=(swarm.a.hex(), swarm.a.hex()), members_file=str(file), reload_seconds=0.0
    )
    assert plugin.sign(swarm.envelope(swarm.a, None)) == b""
    assert swarm.ask(plugin, swarm.a, b"") is ACCEPT
    assert swarm.ask(plugin, swarm.b, b"whatever") is ACCEPT
    assert swarm.ask(plugin, swarm.b, None, now=math.nan) is ACCEPT
    refused(swarm.ask(plugin, swarm.c, None), "not-a-member", Blame.NOBODY)
    refused(plugin.admit(swarm.c, b""), "not-a-member", Blame.NOBODY)
    assert plugin.admit(swarm.b, b"") is ACCEPT


@pytest.mark.claim("C-pki-1")
@pytest.mark.control("C-pki-1")
def test_both_must_accept(swarm: Any) -> None:
    b, c = swarm.issue(swarm.b).certificate, swarm.issue(swarm.c).certificate
    plugin = swarm.pki(members=(swarm.a.hex(), swarm.b.hex()))
    assert swarm.ask(plugin, swarm.b, b) is ACCEPT
    refused(swarm.ask(plugin, swarm.b, None), "no-certificate")
    refused(swarm.ask(plugin, swarm.c, c), "not-a-member", Blame.NOBODY)
    # The controls: one of the two alone lets each of them in.
    listing = swarm.start(swarm.a, members=(swarm.a.hex(), swarm.b.hex()))
    assert swarm.ask(listing, swarm.b, None) is ACCEPT
    assert swarm.ask(swarm.pki(), swarm.c, c) is ACCEPT


@pytest.mark.control("C-pki-4")
def test_control_a_copied_certificate_is_enough_for_this_plugin_alone(swarm: Any) -> None:
    """Anybody may have it. Nothing of the message is signed, and it says another's name."""
    copied = swarm.issue(swarm.b).certificate
    assert swarm.envelope(swarm.b, copied).auth.keys() == {"pki"}
    assert swarm.ask(swarm.pki(), swarm.b, copied) is ACCEPT


@pytest.mark.claim("C-pki-13")
@pytest.mark.control("C-pki-13")
def test_verified_certificates_are_remembered_and_forgeries_are_not(
    swarm: Any, make_swarm: Callable[[str, str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = swarm.issue(swarm.b).certificate
    forged = make_swarm("other", "testing").issue(swarm.b).certificate
    plugin = swarm.pki()
    issuer = type(plugin._membership.issuer)
    read = issuer.read_certificate
    asked: list[bytes] = []

    def counting(self: Any, der: bytes) -> Any:
        asked.append(der)
        return read(self, der)

    monkeypatch.setattr(issuer, "read_certificate", counting)
    for _ in range(3):
        assert swarm.ask(plugin, swarm.b, good) is ACCEPT
        refused(swarm.ask(plugin, swarm.b, forged), "unknown-issuer")
    assert asked.count(good) == 1
    assert asked.count(forged) == 3


@pytest.mark.claim("C-pki-13")
def test_the_memory_is_bounded_and_forgets_the_least_used(swarm: Any) -> None:
    good = swarm.issue(swarm.b).certificate
    membership: Membership = swarm.pki()._membership
    assert membership.judge(swarm.b, good, None, NOW) is ACCEPT
    found = membership._read(membership.issuer, good)
    for number in range(MAX_CACHED - 2):  # beside those of nodes a and b
        membership._genuine[number.to_bytes(32, "big")] = found
    assert membership.judge(swarm.b, good, None, NOW) is ACCEPT  # used again: the last to go
    extra = swarm.issue(swarm.c).certificate  # pushes out that of node a
    assert membership.judge(swarm.c, extra, None, NOW) is ACCEPT
    assert len(membership._genuine) == MAX_CACHED
    assert bytes(32) in membership._genuine
    more = swarm.odd(swarm.key("d"))
    assert membership.judge(swarm.key("d"), more, None, NOW) is ACCEPT
    assert len(membership._genuine) == MAX_CACHED
    assert bytes(32) not in membership._genuine
    assert hashlib.sha256(good).digest() in membership._genuine


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(octets=st.binary(max_size=2100), now=st.floats())
def test_random_bytes_only_give_verdicts(swarm: Any, octets: bytes, now: float) -> None:
    if "fuzzed" not in swarm.__dict__:
        swarm.fuzzed = swarm.pki()
    verdict = swarm.ask(swarm.fuzzed, swarm.b, octets, now=now)
    assert type(verdict) is Verdict
    assert not verdict.accepted
    assert verdict.blame is not Blame.SENDER


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_damaged_certificates_only_give_verdicts(swarm: Any, data: st.DataObject) -> None:
    if "good" not in swarm.__dict__:
        swarm.good, swarm.fuzzed = swarm.issue(swarm.b).certificate, swarm.pki()
    octets = bytearray(swarm.good)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(octets) - 1))
        octets[place] = data.draw(st.integers(0, 255))
    verdict = swarm.ask(swarm.fuzzed, swarm.b, bytes(octets))
    assert type(verdict) is Verdict
    assert verdict.accepted == (bytes(octets) == swarm.good)
    assert verdict.blame is not Blame.SENDER


def test_every_flipped_bit_is_noticed(swarm: Any) -> None:
    good = swarm.issue(swarm.b).certificate
    plugin = swarm.pki()
    for bit in range(len(good) * 8):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        assert not swarm.ask(plugin, swarm.b, bytes(bad)).accepted


def test_a_certificate_has_one_encoding(swarm: Any) -> None:
    """The parser takes a signature with "unused" bits where these are zero; the plugin does not."""
    plugin = swarm.pki()
    good = swarm.odd(swarm.b)
    while good[-1] & 1:
        good = swarm.odd(swarm.b)
    assert swarm.ask(plugin, swarm.b, good) is ACCEPT
    assert good[-66:-64] == b"\x41\x00"
    other = good[:-65] + b"\x01" + good[-64:]
    assert x509.load_der_x509_certificate(other).signature == good[-64:]
    refused(swarm.ask(plugin, swarm.b, other), "malformed-certificate")


@pytest.mark.claim("C-trust-5")
def test_openssl_takes_and_refuses_the_same(swarm: Any, openssl: str) -> None:
    good, revoked = swarm.issue(swarm.b), swarm.issue(swarm.c)
    swarm.revoke(swarm.c)
    plugin = swarm.pki()
    command = [openssl, "verify", "-x509_strict", "-crl_check", "-attime", str(NOW)]
    command += ["-CAfile", str(swarm.ca), "-CRLfile", str(swarm.crl)]
    for issued, expected in ((good, True), (revoked, False)):
        path = swarm.certificates / f"{issued.public_key}.pem"
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is expected, done.stderr
        key = bytes.fromhex(issued.public_key)
        assert swarm.ask(plugin, key, issued.certificate).accepted is expected
    assert "revoked" in done.stderr


def test_an_ec_authority_is_none_of_ours(swarm: Any) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    model = x509.load_pem_x509_certificate(swarm.ca.read_bytes())
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
    )
    for extension in model.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    swarm.issue(swarm.a)
    swarm.ca.write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        swarm.start(swarm.a, **swarm.options())
