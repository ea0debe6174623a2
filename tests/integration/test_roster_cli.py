"""``qres roster``: operators make, sign and see changes, on files alone."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result
from qres_ed25519 import keyfile
from qres_ed25519.signature import SigningKey
from qres_lab.box import toml

from qres_core.cli.app import app
from qres_core.cli.options import read_config
from qres_core.contract.errors import CompatibilityError, ConfigError, RosterError
from qres_core.errors import QresError
from qres_core.kernel.discovery import scan
from qres_core.kernel.kernel import Kernel
from qres_core.node import members
from qres_core.node.members import check_change, roster_of, sign_change, waiting_at
from qres_core.swarm.ledger.roster import Roster, RosterChange, authorised
from qres_core.swarm.members.pending_changes import (
    RosterFolder,
    hand_over,
    read_change,
    write_members,
)

NOW = 1_700_000_000.0


def pair(index: int) -> SigningKey:
    return SigningKey.from_seed(bytes([index]) * 32)


PAIRS = sorted((pair(index) for index in range(1, 5)), key=lambda it: it.public)
NEW = pair(9).public


def write_node(folder: Path, index: int, **changed: Any) -> Path:
    """A node's configuration and key, as they would be before its first start."""
    home = folder / f"node-{index}"
    home.mkdir()
    keyfile.save(home / "node.key", PAIRS[index], None)
    swarm: dict[str, Any] = {
        "name": "lab",
        "nodes": 4,
        "byzantine": 1,
        "quorum": 3,
        "roster": [item.public.hex() for item in PAIRS],
    }
    plugins: dict[str, Any] = {
        "memory": {},
        "ed25519": {"key": str(home / "node.key")},
        "replay": {},
        "median": {"f": 1},
    }
    path = home / "node.toml"
    tables = {
        "swarm": swarm | changed.pop("swarm", {}),
        "node": {"data_dir": str(home / "data")},
        "plugins": changed.pop("plugins", plugins),
    }
    path.write_text(toml.render(tables), encoding="utf-8")
    return path


@pytest.fixture
def nodes(tmp_path: Path) -> list[Path]:
    return [write_node(tmp_path, index) for index in range(4)]


def roster(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["roster", *map(str, arguments)])


def made(*arguments: object) -> dict[str, Any]:
    done = roster(*arguments, "--json")
    assert done.exit_code == 0, done.output + repr(done.exception)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def authentic(config: Path, change: RosterChange) -> bool:
    """Whether members authorised a change, by the judgement of another node's plugins."""
    read = read_config(config)
    found = roster_of(read)
    with members.observer(read, found, scan()) as kernel:
        return authorised(change, found, "lab", lambda it: kernel.authentic(it, NOW))


def test_three_operators_of_four_let_a_member_join(nodes: list[Path], tmp_path: Path) -> None:
    first = made("add", nodes[0], NEW.hex(), "--out", tmp_path / "add.change")
    assert first["signed"] == [PAIRS[0].public.hex()]
    assert (first["needed"], first["after"]["quorum"], first["after"]["byzantine"]) == (3, 4, 1)
    second = made("sign", nodes[1], tmp_path / "add.change")
    assert not authentic(nodes[3], read_change(Path(second["file"]))), "two are too few"
    third = made("sign", nodes[2], second["file"])
    assert third["signed"] == [item.public.hex() for item in PAIRS[:3]]
    change = read_change(Path(third["file"]))
    assert authentic(nodes[3], change)
    forged = attrs.evolve(change, member=pair(10).public, signatures=())
    assert not authentic(nodes[3], forged)

    read = read_config(nodes[2])
    before = roster_of(read)
    folder = RosterFolder("lab", before, Path(str(read.node.data_dir)))
    with members.observer(read, before, scan()) as kernel:
        folder.refresh(lambda it: kernel.authentic(it, NOW))
        ready = folder.ready(lambda it: kernel.authentic(it, NOW))
    assert ready == change, "the node of the last signer proposes it"
    folder.settle(before.after(change))
    shown = made("show", nodes[2])
    assert shown["epoch"] == 1
    assert NEW.hex() in shown["members"]
    assert shown["waiting"] == []
    assert made("show", nodes[0])["epoch"] == 0, "control: that node did not run yet"


def test_signing_twice_and_in_parallel_loses_nothing(nodes: list[Path], tmp_path: Path) -> None:
    made("add", nodes[0], NEW.hex(), "--out", tmp_path / "add.change")
    again = made("add", nodes[0], NEW.hex())
    assert again["signed"] == [PAIRS[0].public.hex()]
    copies = [made("sign", node, tmp_path / "add.change")["file"] for node in nodes[1:3]]
    both = [made("sign", nodes[3], copy) for copy in copies][-1]
    assert both["signed"] == [item.public.hex() for item in PAIRS]


def test_a_key_is_rotated_at_the_least_number_of_members(nodes: list[Path]) -> None:
    report = made("rotate", nodes[0], PAIRS[1].public.hex(), NEW.hex())
    assert report["after"]["quorum"] == 3
    assert len(report["after"]["members"]) == 4
    assert PAIRS[1].public.hex() not in report["after"]["members"]
    done = roster("remove", nodes[0], PAIRS[1].public.hex())
    assert isinstance(done.exception, RosterError)
    assert "4 at least" in str(done.exception)


def test_show_tells_members_what_waits_and_what_does_not_count(nodes: list[Path]) -> None:
    made("add", nodes[0], NEW.hex())
    folder = nodes[0].parent / "data" / "roster"
    (folder / "bad.change").write_bytes(b"\xff")
    done = roster("show", nodes[0])
    assert done.exit_code == 0
    assert "roster 0 of lab, " in done.output
    assert "4 members, f = 1, quorum 3; 3 decide a vote" in done.output
    assert all(item.public.hex() in done.output for item in PAIRS)
    assert f"waiting: add {NEW.hex()}; signed by 1 of 4 members, 3 must sign" in done.output
    assert "bad.change does not count: QRES-E40" in done.output
    text = roster("add", nodes[0], pair(10).public.hex()).output
    assert "after it: roster 1 of lab, " in text
    assert "5 members, f = 1, quorum 4" in text


def test_show_counts_only_authentic_signatures(nodes: list[Path]) -> None:
    read = read_config(nodes[0])
    found = roster_of(read)
    change = found.change("lab", "add", NEW)
    forged = change.statement(PAIRS[1].public, 5).with_auth({"ed25519": b"x" * 64})
    hand_over(Path(str(read.node.data_dir)), change.signed([forged]))
    (waiting,), problems = waiting_at(read, found, NOW)
    assert (waiting.signatures, problems) == ((), {})
    signed = sign_change(read, found, change.signed([forged]), NOW)
    assert [item.sender for item in signed.signatures] == [PAIRS[0].public]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("add", "nonsense"), ConfigError, "QRES-E105 MEMBER: 'nonsense' is not 64"),
        (("add", NEW.hex().upper()), ConfigError, "QRES-E105 MEMBER"),
        (("add", "ff" * 32), CompatibilityError, "is no Ed25519 public key"),
        (("add", PAIRS[0].public.hex()), RosterError, "is a member already"),
        (("remove", NEW.hex()), RosterError, "is no member"),
        (("rotate", NEW.hex(), NEW.hex()), ConfigError, "it is MEMBER itself"),
        (("sign", "nowhere"), ConfigError, "QRES-E101"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_is_written(
    nodes: list[Path], arguments: tuple[str, ...], error: type[QresError], words: str
) -> None:
    verb, *others = arguments
    done = roster(verb, nodes[0], *others)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)
    assert not (nodes[0].parent / "data").exists()


def test_a_change_that_the_rule_cannot_hold_is_not_signed(tmp_path: Path) -> None:
    """Krum needs 2 f + 3 updates: with the next smaller quorum it would refuse every round."""
    plugins = {
        "memory": {},
        "ed25519": {"key": str(tmp_path / "node-0" / "node.key")},
        "replay": {},
        "krum": {"f": 1},
    }
    more = [pair(index).public.hex() for index in range(20, 23)]
    names = [item.public.hex() for item in PAIRS] + more
    swarm = {"nodes": 7, "quorum": 5, "roster": names}
    node = write_node(tmp_path, 0, swarm=swarm, plugins=plugins)
    read = read_config(node)
    Kernel.from_config(read)
    found = roster_of(read)
    assert check_change(read, found, found.change("lab", "add", NEW)).quorum == 6, "control"
    remove = found.change("lab", "remove", bytes.fromhex(more[0]))
    assert found.after(remove).quorum == 4, "the numbers alone would allow it"
    with pytest.raises(CompatibilityError, match="QRES-E3"):
        check_change(read, found, remove)


def test_a_site_policy_holds_after_the_change_too(nodes: list[Path], tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text("[at_most.swarm]\nnodes = 4\n", encoding="utf-8")
    done = roster("add", nodes[0], NEW.hex(), "--policy", policy)
    assert isinstance(done.exception, CompatibilityError), done.exception
    assert "QRES-E315" in str(done.exception)
    assert (
        roster("rotate", nodes[0], PAIRS[1].public.hex(), NEW.hex(), "--policy", policy).exit_code
        == 0
    )


def test_only_members_sign(nodes: list[Path]) -> None:
    read = read_config(nodes[0])
    without = Roster(tuple(item.public for item in PAIRS[1:]), 0, 2, 1)
    write_members(Path(str(read.node.data_dir)), "lab", without)
    done = roster("add", nodes[0], NEW.hex())
    assert isinstance(done.exception, ConfigError)
    assert "is no member" in str(done.exception)


def test_a_change_for_another_roster_is_not_signed(nodes: list[Path], tmp_path: Path) -> None:
    made("add", nodes[0], NEW.hex(), "--out", tmp_path / "add.change")
    read = read_config(nodes[1])
    found = roster_of(read)
    later = found.after(found.change("lab", "rotate", PAIRS[3].public, pair(10).public))
    write_members(Path(str(read.node.data_dir)), "lab", later)
    done = roster("sign", nodes[1], tmp_path / "add.change")
    assert isinstance(done.exception, RosterError)
    assert "it is for roster 0" in str(done.exception)


def test_an_existing_file_is_not_written_over(nodes: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_bytes(b"mine")
    done = roster("add", nodes[0], NEW.hex(), "--out", path)
    assert isinstance(done.exception, QresError)
    assert done.exception.code == "QRES-E803"
    assert path.read_bytes() == b"mine"


def test_a_node_without_a_folder_or_a_roster_is_refused(tmp_path: Path) -> None:
    node = write_node(tmp_path, 0)
    bare = attrs.evolve(read_config(node), node=attrs.evolve(read_config(node).node, data_dir=None))
    with pytest.raises(ConfigError, match=r"QRES-E103 node.data_dir"):
        members.home_of(bare)
    assert roster_of(bare).epoch == 0
    with pytest.raises(ConfigError, match=r"QRES-E103 swarm.roster"):
        roster_of(attrs.evolve(bare, swarm=attrs.evolve(bare.swarm, roster=())))
    with pytest.raises(ConfigError, match=r"QRES-E105 swarm.byzantine"):
        roster_of(attrs.evolve(bare, swarm=attrs.evolve(bare.swarm, byzantine=2)))


def made_ca(*arguments: object) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["ca", *map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output + repr(done.exception)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def write_certified(folder: Path) -> Path:
    """A node of a swarm whose certificate authority decides about the members."""
    authority = folder / "ca"
    made_ca("init", authority, "--swarm", "lab")
    roles = ("--role", "train", "--role", "aggregate")
    key = PAIRS[0].public.hex()
    made_ca("issue", authority, "--public-key", key, "--name", "first", *roles)
    plugins: dict[str, Any] = {
        "memory": {},
        "ed25519": {"key": str(folder / "node-0" / "node.key")},
        "replay": {},
        "median": {"f": 1},
        "pki": {
            "ca": str(authority / "ca.pem"),
            "crl": str(authority / "crl.pem"),
            "certificates": str(authority / "certificates"),
        },
    }
    return write_node(folder, 0, swarm={"authority": "ca"}, plugins=plugins)


def test_the_authority_decides_where_the_swarm_says_so(tmp_path: Path) -> None:
    node = write_certified(tmp_path)
    first = made("add", node, NEW.hex())
    assert (first["signed"], first["approved"], first["needed"]) == ([], False, 0)
    read_back = made("read", first["file"])
    assert (read_back["action"], read_back["member"]) == ("add", NEW.hex())
    assert read_back["digest"] == first["digest"]
    approval = made_ca("approve", tmp_path / "ca", read_back["digest"])["approval"]

    wrong = roster("sign", node, first["file"], "--approval", "00" * 64)
    assert isinstance(wrong.exception, ConfigError)
    assert "did not approve this change" in str(wrong.exception)
    assert "not hexadecimal" in str(
        roster("sign", node, first["file"], "--approval", "zz").exception
    )

    assert made("sign", node, first["file"], "--approval", approval)["approved"]
    read = read_config(node)
    found = roster_of(read)
    now = time.time()
    folder = RosterFolder("lab", found, Path(str(read.node.data_dir)))
    with members.observer(read, found, scan()) as kernel:
        folder.refresh(lambda it: kernel.authentic(it, now))
        ready = folder.ready(
            lambda it: kernel.authentic(it, now),
            lambda digest, octets: kernel.approved(digest, octets, now),
        )
        assert ready is not None
        assert ready.member == NEW
        assert folder.ready(lambda it: kernel.authentic(it, now)) is None, "members did not sign"


def test_the_certificates_of_members_are_quoted_with_their_signatures(tmp_path: Path) -> None:
    node = write_certified(tmp_path)
    text = node.read_text(encoding="utf-8").replace('authority = "ca"', 'authority = "members"')
    node.write_text(text, encoding="utf-8")
    report = made("add", node, NEW.hex())
    change = read_change(Path(report["file"]))
    (signature,) = change.signatures
    assert set(signature.auth) == {"ed25519", "pki"}
    read = read_config(node)
    found = roster_of(read)
    (waiting,), _problems = waiting_at(read, found, time.time())
    assert waiting == change


def test_read_says_what_a_change_does(nodes: list[Path], tmp_path: Path) -> None:
    made("rotate", nodes[0], PAIRS[1].public.hex(), NEW.hex(), "--out", tmp_path / "it.change")
    done = roster("read", tmp_path / "it.change")
    assert done.exit_code == 0
    assert f"rotate {PAIRS[1].public.hex()} to {NEW.hex()}" in done.output
    assert "in roster 0 of lab, " in done.output
