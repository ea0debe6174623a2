"""A swarm with a CA of its own, at a fixed moment of the virtual clock."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from qres_lab.testing import make_envelope
from qres_pki import Pki
from qres_pki.authority import Authority
from qres_pki.index import Issued

from qres_core import Envelope, NodeInfo, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DAY = 86_400
NOW = 1_700_000_000
BOTH = ("train", "aggregate")


def private_key(label: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(label.encode()).digest())


def raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


class Swarm:
    """A CA in a folder and what a test does with it."""

    now = NOW

    def __init__(self, folder: Path, name: str = "testing") -> None:
        self.folder, self.name = folder, name
        Authority.create(folder, name, days=1000, crl_days=30, start=NOW - 100 * DAY, now=NOW)
        self.ca, self.crl = folder / "ca.pem", folder / "crl.pem"
        self.certificates = folder / "certificates"
        self.a, self.b, self.c = (raw(private_key(label)) for label in "abc")

    def key(self, label: str) -> bytes:
        return raw(private_key(label))

    @property
    def ca_key(self) -> Ed25519PrivateKey:
        key = load_pem_private_key((self.folder / "ca-key.pem").read_bytes(), None)
        assert isinstance(key, Ed25519PrivateKey)
        return key

    def issue(
        self,
        key: bytes,
        roles: Sequence[str] = BOTH,
        *,
        start: int = NOW - DAY,
        days: int = 30,
        renew: bool = False,
        out: Path | None = None,
    ) -> Issued:
        with Authority.open(self.folder) as authority:
            return authority.issue(
                key,
                f"node-{key.hex()[:8]}",
                roles,
                days=days,
                start=start,
                now=NOW,
                out=out or self.certificates,
                renew=renew,
            )

    def revoke(self, key: bytes, now: int = NOW) -> None:
        with Authority.open(self.folder) as authority:
            chosen = [item for item in authority.index.all() if item.public_key == key.hex()]
            authority.revoke(chosen, "keyCompromise", now)

    def renew_crl(self, now: int = NOW, days: int | None = None) -> None:
        with Authority.open(self.folder) as authority:
            authority.renew_crl(now, days)

    def renewed_ca(self) -> bytes:
        """A new certificate of the CA's key, PEM."""
        old = x509.load_pem_x509_certificate(self.ca.read_bytes())
        builder = (
            x509.CertificateBuilder()
            .subject_name(old.subject)
            .issuer_name(old.issuer)
            .public_key(old.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.fromtimestamp(NOW - DAY, UTC))
            .not_valid_after(datetime.fromtimestamp(NOW + 4000 * DAY, UTC))
        )
        for extension in old.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self.ca_key, None).public_bytes(Encoding.PEM)

    def options(self, **changes: Any) -> dict[str, Any]:
        return {
            "ca": str(self.ca),
            "certificates": str(self.certificates),
            "crl": str(self.crl),
            "reload_seconds": 0.0,
            **changes,
        }

    def start(
        self, key: bytes, data_dir: str | None = None, clock: float = NOW, **options: Any
    ) -> Pki:
        plugin = Pki(**options)
        plugin.clock = lambda: clock
        plugin.setup(NodeInfo(key, self.name, (key,), data_dir=data_dir))
        return plugin

    def pki(self, data_dir: str | None = None, clock: float = NOW, **changes: Any) -> Pki:
        """The plugin of node a, started; its certificate is issued if it has none."""
        if not (self.certificates / f"{self.a.hex()}.pem").exists():
            self.issue(self.a)
        return self.start(self.a, data_dir, clock, **self.options(**changes))

    def envelope(
        self, sender: bytes, credential: bytes | None, kind: str = "contribution"
    ) -> Envelope:
        envelope = make_envelope(sender=sender, kind=kind, swarm=self.name)
        return envelope if credential is None else envelope.with_auth({"pki": credential})

    def ask(
        self,
        plugin: Pki,
        sender: bytes,
        credential: bytes | None,
        *,
        kind: str = "contribution",
        now: float = NOW,
        quoted: bool = False,
    ) -> Verdict:
        return plugin.authenticate(self.envelope(sender, credential, kind), now, quoted)

    def odd(
        self,
        key: bytes,
        *,
        signer: Ed25519PrivateKey | None = None,
        drop: type[x509.ExtensionType] | None = None,
        add: Sequence[tuple[x509.ExtensionType, bool]] = (),
        swarm: str | None = None,
        issuer: x509.Name | None = None,
        public_key: Any = None,
    ) -> bytes:
        """A certificate like those of the CA but for what the arguments change, DER."""
        with Authority.open(self.folder) as authority:
            node = f"{key.hex()}.pem"
            made = authority.issue(
                key,
                f"odd-{key.hex()[:8]}",
                BOTH,
                days=30,
                start=NOW - DAY,
                now=NOW,
                out=self.folder / "odd",
                renew=(self.folder / "odd" / node).exists(),
            )
        model = x509.load_der_x509_certificate(made.certificate)
        subject = model.subject
        if swarm is not None:
            common = subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            subject = x509.Name(
                [x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, swarm), *common]
            )
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or model.issuer)
            .public_key(public_key or model.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(model.not_valid_before_utc)
            .not_valid_after(model.not_valid_after_utc)
        )
        replaced = {type(value) for value, _critical in add} | {drop}
        for extension in model.extensions:
            if type(extension.value) not in replaced:
                builder = builder.add_extension(extension.value, extension.critical)
        for value, critical in add:
            builder = builder.add_extension(value, critical)
        return builder.sign(signer or self.ca_key, None).public_bytes(Encoding.DER)


@pytest.fixture
def swarm(tmp_path: Path) -> Swarm:
    return Swarm(tmp_path / "ca")


@pytest.fixture
def make_swarm(tmp_path: Path) -> Callable[[str, str], Swarm]:
    """Another CA: folder and swarm name."""
    return lambda folder, name: Swarm(tmp_path / folder, name)


@pytest.fixture(scope="session")
def openssl() -> str:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl on PATH")
    return program


@pytest.fixture(scope="session")
def qres() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The program itself."""
    start = "from qres_core.cli import main; main()"

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-c", start, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)

    return call
