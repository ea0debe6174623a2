"""What the plugin refuses to start with."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from qres_lab.testing import host
from qres_pki import Pki

from qres_core import ACCEPT, NodeInfo, hookimpl, reject
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import ConfigError, OptionError
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400
NOW = 1_700_000_000
KEY = "ab" * 32


@attrs.frozen
class Anyone:
    @hookimpl
    def sign(self) -> bytes:
        return b""

    @hookimpl
    def authenticate(self) -> Any:
        return ACCEPT


def kernel(**plugins: dict[str, Any]) -> Kernel:
    swarm = {"name": "s", "nodes": 1, "byzantine": 0, "quorum": 1, "insecure": True}
    tables = {"memory": {}, "mean": {}, **plugins}
    known = {"memory": Memory, "mean": Mean, "pki": Pki, "anyone": Anyone}
    installed = {name: Installed.local(name, item) for name, item in known.items()}
    config = parse({"swarm": swarm, "plugins": tables}, source="test")
    return Kernel.from_config(config, installed=installed)


def test_the_kernel_takes_it() -> None:
    host(Pki(members=(KEY,)), name="pki")


@pytest.mark.claim("C-pki-4")
def test_a_certificate_is_no_signature() -> None:
    with pytest.raises(Exception, match="needs the family 'authenticate'") as raised:
        kernel(pki={"members": [KEY]})
    assert raised.value.code == "QRES-E305"  # type: ignore[attr-defined]
    assert kernel(pki={"members": [KEY]}, anyone={}).has("admit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "'members', 'members_file' and 'ca'"),
        ({"members": ["alice"]}, "pki.members: 'alice' is neither"),
        ({"ca": "ca.pem"}, "'ca' and 'certificates' go together"),
        ({"certificates": "c", "members": [KEY]}, "'ca' and 'certificates' go together"),
        ({"crl": "crl.pem", "members": [KEY]}, "'crl' is set and 'ca' is not"),
        ({"ca": "ca.pem", "certificates": "c"}, "'require_crl' is true and 'crl' is not set"),
        (
            {"members": [KEY], "reload_seconds": -1.0},
            "pki.reload_seconds: must be",
        ),
        ({"members": [KEY], "reload_seconds": math.inf}, "reload_seconds: must be finite"),
        ({"members": [KEY], "reload_seconds": math.nan}, "reload_seconds: must be finite"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match="QRES-E105") as raised:
        kernel(pki=options, anyone={})
    assert message in str(raised.value)


@pytest.mark.parametrize("seconds", [math.inf, math.nan, -0.1])
def test_the_plugin_itself_wants_finite_times(seconds: float) -> None:
    with pytest.raises(OptionError, match="reload_seconds: must be a finite number of at least 0"):
        Pki(members=(KEY,), reload_seconds=seconds)


def test_a_lax_crl_is_told() -> None:
    lax = Pki(ca="ca.pem", certificates="c", require_crl=False)
    assert any("revoked nodes stay in" in notice for notice in lax.claims.notices)
    assert Pki(ca="ca.pem", certificates="c", crl="crl.pem").claims.notices == ()
    assert Pki(members=(KEY,), require_crl=False).claims.notices == ()


def test_before_setup_and_after_teardown_nobody_is_in(swarm: Any) -> None:
    fresh = Pki(members=(swarm.a.hex(),))
    assert swarm.ask(fresh, swarm.a, None) == reject("membership-not-loaded")
    assert fresh.admit(swarm.a, b"") == reject("membership-not-loaded")
    plugin = swarm.start(swarm.a, members=(swarm.a.hex(),))
    assert swarm.ask(plugin, swarm.a, None) is ACCEPT
    plugin.teardown()
    plugin.teardown()
    assert swarm.ask(plugin, swarm.a, None) == reject("membership-not-loaded")


def refuses(swarm: Any, option: str, what: str, **changes: Any) -> None:
    clock = changes.pop("clock", NOW)
    with pytest.raises(ConfigError) as raised:
        swarm.start(swarm.a, None, clock, **swarm.options(**changes))
    (problem,) = raised.value.problems
    assert (problem.code, problem.where) == ("QRES-E105", f"plugins.pki.{option}")
    assert what in problem.what
    assert problem.fix


@pytest.mark.claim("C-pki-5")
@pytest.mark.control("C-pki-5")
def test_its_own_certificate_must_do(
    swarm: Any, make_swarm: Callable[[str, str], Any], tmp_path: Path
) -> None:
    own = swarm.certificates / f"{swarm.a.hex()}.pem"
    refuses(swarm, "certificates", "No such file")
    swarm.issue(swarm.a, ["train"])
    swarm.start(swarm.a, **swarm.options())  # the control
    good = own.read_bytes()
    refuses(swarm, "certificates", "certificate-expired", clock=NOW + 29.5 * DAY)
    refuses(swarm, "certificates", "certificate-not-yet-valid", clock=NOW - 2 * DAY)
    refuses(swarm, "ca", "ca-certificate-not-valid-now", clock=NOW - 200 * DAY)
    own.write_text("garbage")
    refuses(swarm, "certificates", "not a PEM certificate")
    swarm.issue(swarm.b)
    own.write_bytes((swarm.certificates / f"{swarm.b.hex()}.pem").read_bytes())
    refuses(swarm, "certificates", "certificate-of-another-key")
    other = make_swarm("other", "testing")
    other.issue(swarm.a)
    refuses(swarm, "certificates", "unknown-issuer", certificates=str(other.certificates))
    own.write_bytes(good)
    refuses(swarm, "members", "not-a-member", members=(swarm.b.hex(),))
    empty = tmp_path / "empty"
    empty.write_text("# nobody\n")
    refuses(swarm, "members", "not-a-member", members_file=str(empty))
    old = swarm.crl.read_bytes()
    swarm.revoke(swarm.a)
    refuses(swarm, "certificates", "certificate-revoked")
    # Its own files are all that it can ask.
    swarm.crl.write_bytes(old)
    swarm.start(swarm.a, **swarm.options())


def test_the_files_must_do(
    swarm: Any, make_swarm: Callable[[str, str], Any], tmp_path: Path
) -> None:
    swarm.issue(swarm.a)
    missing, garbage, big = (tmp_path / name for name in ("missing", "garbage", "big"))
    garbage.write_bytes(b"\xff\xfe garbage")
    big.write_bytes(b"#" * (8 * 2**20 + 1))
    for option in ("ca", "crl", "members_file"):
        refuses(swarm, option, "No such file", **{option: str(missing)})
        refuses(swarm, option, str(garbage), **{option: str(garbage)})
        refuses(swarm, option, "larger than 8388608 bytes", **{option: str(big)})
        refuses(swarm, option, "is a folder", **{option: str(tmp_path)})
    big.write_bytes(b"#" * (8 * 2**20 - 65) + b"\n" + swarm.a.hex().encode())
    swarm.start(swarm.a, **swarm.options(members_file=str(big)))
    stranger = make_swarm("stranger", "other-swarm")
    refuses(swarm, "ca", "the CA of swarm 'other-swarm', this is 'testing'", ca=str(stranger.ca))
    impostor = make_swarm("impostor", "testing")
    refuses(swarm, "crl", "not made by this CA", crl=str(impostor.crl))
    refuses(swarm, "crl", "not made by this CA", crl=str(stranger.crl))
    node = swarm.certificates / f"{swarm.a.hex()}.pem"
    refuses(swarm, "ca", "not a self-signed Ed25519 CA certificate", ca=str(node))
    two = tmp_path / "two.pem"
    two.write_bytes(swarm.ca.read_bytes() + impostor.ca.read_bytes())
    refuses(swarm, "ca", "2 certificates in it", ca=str(two))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_refused_at_once(swarm: Any, tmp_path: Path) -> None:
    """It would keep a node from starting until somebody wrote to it."""
    swarm.issue(swarm.a)
    os.mkfifo(tmp_path / "pipe")
    for option in ("ca", "crl", "members_file"):
        refuses(swarm, option, "is a pipe", **{option: str(tmp_path / "pipe")})
    own = swarm.certificates / f"{swarm.a.hex()}.pem"
    own.unlink()
    os.mkfifo(own)
    refuses(swarm, "certificates", "is a pipe")


def test_an_expired_crl_stops_the_start(swarm: Any) -> None:
    swarm.issue(swarm.a, days=100)
    refuses(swarm, "crl", "crl-expired", clock=NOW + 31 * DAY)
    swarm.start(swarm.a, None, NOW + 31 * DAY, **swarm.options(require_crl=False))


def test_a_simulated_node_leaves_times_to_the_virtual_clock(swarm: Any) -> None:
    swarm.issue(swarm.a)
    plugin = Pki(**swarm.options())  # the real clock: the certificate has long expired
    info = NodeInfo(swarm.a, "testing", (swarm.a,), seed=0)
    plugin.setup(info)
    own = plugin.sign(swarm.envelope(swarm.a, None))
    assert swarm.ask(plugin, swarm.a, own, now=NOW) is ACCEPT
    assert plugin.admit(swarm.a, own).reason == "ca-certificate-not-valid-now"
    with pytest.raises(ConfigError):
        Pki(**swarm.options()).setup(attrs.evolve(info, seed=None))
    swarm.revoke(swarm.a)
    with pytest.raises(ConfigError, match="certificate-revoked"):
        Pki(**swarm.options()).setup(info)


@pytest.mark.parametrize(
    ("authority", "cert_sign", "crl_sign"),
    [(False, True, True), (True, False, True), (True, True, False), (True, True, True)],
)
def test_a_ca_certificate_must_be_one(
    swarm: Any, *, authority: bool, cert_sign: bool, crl_sign: bool
) -> None:
    swarm.issue(swarm.a)
    model = x509.load_pem_x509_certificate(swarm.ca.read_bytes())
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(model.subject)
        .issuer_name(model.subject)
        .public_key(model.public_key())
        .serial_number(1)
        .not_valid_before(model.not_valid_before_utc)
        .not_valid_after(model.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    swarm.ca.write_bytes(builder.sign(swarm.ca_key, None).public_bytes(Encoding.PEM))
    if authority and cert_sign and crl_sign:
        swarm.start(swarm.a, **swarm.options())
    else:
        refuses(swarm, "ca", "it may not sign certificates and CRLs")


def test_an_observer_judges_others_and_has_no_place_itself(swarm: Any) -> None:
    swarm.issue(swarm.b)
    certificate = (swarm.certificates / f"{swarm.b.hex()}.pem").read_bytes()
    credential = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER)
    nobody = NodeInfo(bytes(32), swarm.name, (swarm.a, swarm.b), observer=True)
    plugin = Pki(**swarm.options())
    plugin.clock = lambda: NOW
    plugin.setup(nobody)
    assert swarm.ask(plugin, swarm.b, credential, kind="digest") is ACCEPT
    assert swarm.ask(plugin, swarm.a, credential, kind="digest") is not ACCEPT
    assert swarm.ask(plugin, swarm.a, None, kind="digest") is not ACCEPT
    swarm.revoke(swarm.b)
    assert swarm.ask(plugin, swarm.b, credential, kind="digest") is not ACCEPT
    plugin.teardown()
    with pytest.raises(ConfigError, match="QRES-E105"):  # the control: a node needs its own
        Pki(**swarm.options()).setup(attrs.evolve(nobody, observer=False))
