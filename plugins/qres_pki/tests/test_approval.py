"""The CA approves changes of the members, and nobody else does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from qres_lab.testing import make_envelope, make_node_ids
from qres_pki import Pki
from qres_pki.authority import Authority
from qres_pki.cli import ca
from qres_pki.issuer import Issuer

from qres_core import ACCEPT, Blame, Surroundings
from qres_core.errors import ConfigError

NOW = 1_700_000_000
DAY = 86_400
DIGEST = b"d" * 32


def approval(folder: Path, digest: bytes = DIGEST) -> bytes:
    with Authority.open(folder) as authority:
        return authority.approve(digest)


def test_what_the_ca_approved_is_accepted_and_nothing_else(swarm: Any, tmp_path: Path) -> None:
    plugin = swarm.pki()
    good = approval(swarm.folder)
    assert plugin.approve(DIGEST, good, NOW) is ACCEPT
    other = tmp_path / "other"
    Authority.create(other, swarm.name, days=1000, crl_days=30, start=NOW - DAY, now=NOW)
    for digest, octets in (
        (b"e" * 32, good),
        (DIGEST, approval(other)),
        (DIGEST, swarm.ca_key.sign(DIGEST)),
        (DIGEST, good[:-1]),
        (DIGEST, good + b"\0"),
        (DIGEST, b""),
    ):
        verdict = plugin.approve(digest, octets, NOW)
        assert (verdict.reason, verdict.blame) == ("not-approved", Blame.NOBODY)


def test_any_bytes_are_refused_by_a_verdict(swarm: Any) -> None:
    plugin = swarm.pki()

    @settings(deadline=None)
    @given(octets=st.binary(max_size=100), digest=st.binary(max_size=40))
    def refused(octets: bytes, digest: bytes) -> None:
        assert not plugin.approve(digest, octets, NOW).accepted

    refused()


def test_a_ca_that_is_not_valid_now_approves_nothing(swarm: Any) -> None:
    plugin = swarm.pki()
    good = approval(swarm.folder)
    for now in (NOW - 200 * DAY, NOW + 2000 * DAY, float("nan")):
        assert plugin.approve(DIGEST, good, now).reason == "ca-certificate-not-valid-now"


def test_without_a_ca_or_its_file_nothing_is_approved(swarm: Any) -> None:
    good = approval(swarm.folder)
    listed = swarm.start(swarm.a, members=(swarm.a.hex(),))
    assert listed.approve(DIGEST, good, NOW).reason == "not-approved"
    plugin = swarm.pki()
    swarm.ca.write_bytes(b"")
    assert not plugin.approve(DIGEST, good, NOW).accepted
    assert not Pki(**swarm.options()).approve(DIGEST, good, NOW).accepted, "not set up"


def test_a_swarm_whose_ca_decides_needs_a_ca() -> None:
    around = Surroundings(nodes=1, byzantine=0, quorum=1, authority="ca")
    plugin = Pki(members=("ab" * 32,))
    (problem,) = plugin.check(around)
    assert (problem.code, problem.where) == ("QRES-E103", "plugins.pki.ca")
    assert list(plugin.check(attrs.evolve(around, authority="members"))) == []


def test_the_command_approves_a_digest(swarm: Any) -> None:
    found = CliRunner().invoke(ca, ["approve", str(swarm.folder), DIGEST.hex(), "--json"])
    assert found.exit_code == 0, found.output
    report = json.loads(found.output)
    assert report["approval"] == approval(swarm.folder).hex()
    assert swarm.pki().approve(DIGEST, bytes.fromhex(report["approval"]), NOW) is ACCEPT
    plain = CliRunner().invoke(ca, ["approve", str(swarm.folder), DIGEST.hex()])
    assert plain.output.strip() == report["approval"]


@pytest.mark.parametrize("digest", ["", "d" * 63, "D" * 64, "g" * 64])
def test_the_command_refuses_what_is_no_digest(swarm: Any, digest: str) -> None:
    found = CliRunner().invoke(ca, ["approve", str(swarm.folder), digest])
    assert isinstance(found.exception, ConfigError)
    assert "QRES-E105 DIGEST" in str(found.exception)


def test_a_ca_decides_from_its_first_second_to_its_last(swarm: Any) -> None:
    issuer = Issuer.from_pem(swarm.ca.read_bytes())
    plugin, good = swarm.pki(), approval(swarm.folder)
    for now in (issuer.not_before, issuer.not_after):
        assert plugin.approve(DIGEST, good, now) is ACCEPT


def test_a_list_lets_in_as_many_as_decide_a_vote() -> None:
    members = tuple(node.hex() for node in make_node_ids(4))
    around = Surroundings(nodes=5, byzantine=1, quorum=1)
    (problem,) = Pki(members=members[:3]).check(around)
    assert (problem.code, problem.where) == ("QRES-E304", "plugins.pki.members")
    assert list(Pki(members=members).check(around)) == []


def test_a_quoted_message_belongs_to_its_own_time(swarm: Any) -> None:
    envelope, plugin = make_envelope(sender=swarm.a), swarm.pki()
    assert not plugin.authenticate(envelope, NOW, quoted=False).accepted
    assert plugin.authenticate(envelope, NOW, quoted=True) is ACCEPT
