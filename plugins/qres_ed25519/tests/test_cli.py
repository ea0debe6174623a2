"""The verbs, run as users run them."""

# ruff: noqa: S105, S106 - passphrases of keys that live as long as a test

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from qres_ed25519 import Ed25519, cli, keyfile
from qres_ed25519.names import did, peer_id
from qres_ed25519.rotation import read_statement

from qres_core.errors import ConfigError, LabError, QresError

if TYPE_CHECKING:
    from click import Command
    from qres_ed25519.signature import SigningKey

PASSPHRASE = "a long enough passphrase"


def run(command: Command, *arguments: object, **environment: str) -> str:
    runner = CliRunner(env={"NODE_PASS": None, **environment})
    result = runner.invoke(
        command, [str(argument) for argument in arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(command: Command, *arguments: object, **environment: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(command, *arguments, "--json", **environment))
    return found


def refused(command: Command, *arguments: object, **environment: str) -> QresError:
    runner = CliRunner(env={"NODE_PASS": None, **environment})
    result = runner.invoke(command, [str(argument) for argument in arguments])
    assert isinstance(result.exception, QresError), result.output
    assert not result.stdout
    return result.exception


def test_keygen_and_show(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    made = run_json(cli.keygen, path, "--no-passphrase")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pair = keyfile.load(path, None, "x")
    assert made == {
        "path": str(path),
        "encrypted": False,
        "public_key": pair.public.hex(),
        "peer_id": peer_id(pair.public),
        "did": did(pair.public),
    }
    shown = run_json(cli.key, "show", path)
    assert shown == {name: made[name] for name in ("public_key", "peer_id", "did")}
    assert run_json(cli.key, "show", "--public", made["public_key"]) == shown
    assert run_json(cli.key, "show", "--public", made["public_key"].upper()) == shown
    text = run(cli.key, "show", path)
    assert text.splitlines() == [
        f"public key  {made['public_key']}",
        f"peer id     {made['peer_id']}",
        f"did         {made['did']}",
    ]
    assert pair.seed.hex() not in text
    assert Ed25519(key=str(path)).identity(None) == pair.public


@pytest.mark.control("C-keys-7")
def test_keygen_with_a_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    options = (path, "--passphrase-env", "NODE_PASS")
    made = run_json(cli.keygen, *options, NODE_PASS=PASSPHRASE)
    assert made["encrypted"] is True
    assert "ENCRYPTED" in path.read_text("ascii")
    show = ("show", path, "--passphrase-env", "NODE_PASS")
    assert run_json(cli.key, *show, NODE_PASS=PASSPHRASE)["did"] == made["did"]
    assert "passphrase is wrong" in str(refused(cli.key, *show, NODE_PASS="another one"))
    assert "no passphrase is given" in str(refused(cli.key, "show", path))


@pytest.mark.parametrize(
    "options", [(), ("--no-passphrase", "--passphrase-env", "NODE_PASS")], ids=["none", "both"]
)
def test_whether_a_key_is_encrypted_must_be_said(options: tuple[str, ...], tmp_path: Path) -> None:
    refusal = refused(cli.keygen, tmp_path / "node.key", *options, NODE_PASS=PASSPHRASE)
    assert refusal.code == "QRES-E103"
    assert not list(tmp_path.iterdir())


@pytest.mark.claim("C-keys-1")
def test_keygen_overwrites_nothing(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    run(cli.keygen, path, "--no-passphrase")
    before = path.read_bytes()
    refusal = refused(cli.keygen, path, "--no-passphrase")
    assert isinstance(refusal, LabError)
    assert refusal.code == "QRES-E803"
    assert path.read_bytes() == before


def test_keygen_without_the_passphrase_it_was_promised(tmp_path: Path) -> None:
    options = (tmp_path / "node.key", "--passphrase-env", "NODE_PASS")
    assert "NODE_PASS" in str(refused(cli.keygen, *options))
    assert "at least 15" in str(refused(cli.keygen, *options, NODE_PASS="short"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("00", "64 hex digits"),
        ("zz" * 32, "64 hex digits"),
        ("\u0660" * 64, "64 hex digits"),
        ("00" * 32, "of small order"),
        ("ff" * 32, "not canonical"),
        ("02" + "00" * 31, "prime subgroup"),
        ("", "64 hex digits"),
    ],
)
def test_show_of_what_is_no_key(text: str, what: str) -> None:
    refusal = refused(cli.key, "show", "--public", text)
    assert isinstance(refusal, ConfigError)
    assert what in str(refusal)


def test_show_of_nothing_and_of_two_things(tmp_path: Path) -> None:
    assert refused(cli.key, "show").code == "QRES-E103"
    both = refused(cli.key, "show", tmp_path / "x", "--public", "00")
    assert both.code == "QRES-E103"
    assert "both" in str(both)


def test_rotate_and_check(tmp_path: Path, pairs: list[SigningKey]) -> None:
    old, new, statement = (tmp_path / name for name in ("old", "new", "statement"))
    keyfile.save(old, pairs[0], PASSPHRASE.encode())
    made = run_json(
        cli.key,
        "rotate",
        old,
        new,
        "--statement",
        statement,
        "--old-passphrase-env",
        "OLD_PASS",
        "--passphrase-env",
        "NODE_PASS",
        OLD_PASS=PASSPHRASE,
        NODE_PASS="another long passphrase",
    )
    pair = keyfile.load(new, b"another long passphrase", "x")
    assert made["old_public_key"] == pairs[0].public.hex()
    assert made["public_key"] == pair.public.hex()
    assert (made["statement"], made["path"]) == (str(statement), str(new))
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert stat.S_IMODE(statement.stat().st_mode) == 0o644
    read = read_statement(statement, "x")
    assert (read.old, read.new) == (pairs[0].public, pair.public)
    assert read.time > 1_700_000_000

    newest, second = tmp_path / "newest", tmp_path / "second"
    run(cli.key, "rotate", new, newest, "--statement", second, "--no-passphrase",
        "--old-passphrase-env", "NODE_PASS", NODE_PASS="another long passphrase")  # fmt: skip
    last = keyfile.load(newest, None, "x").public.hex()
    checked = run_json(cli.key, "check", second, statement)
    assert checked["ok"] is True
    assert checked["chains"] == [[pairs[0].public.hex(), pair.public.hex(), last]]
    assert [statement["new"] for statement in checked["statements"]] == [last, pair.public.hex()]
    assert [statement["old"] for statement in checked["statements"]] == [
        pair.public.hex(),
        read.old.hex(),
    ]
    assert checked["statements"][1]["time"] == read.time
    assert run(cli.key, "check", statement).splitlines() == [
        f"identity  {pairs[0].public.hex()}",
        f"  then    {pair.public.hex()}",
    ]
    node = Ed25519(key=str(newest), rotations=(str(statement), str(second)))
    assert node.identity(None) == pairs[0].public


def test_rotate_overwrites_nothing_and_leaves_nothing_half_done(
    tmp_path: Path, pairs: list[SigningKey]
) -> None:
    old, taken, free = (tmp_path / name for name in ("old", "taken", "free"))
    keyfile.save(old, pairs[0], None)
    taken.write_bytes(b"precious")
    for new, statement in ((taken, free), (free, taken)):
        refusal = refused(cli.key, "rotate", old, new, "--statement", statement, "--no-passphrase")
        assert refusal.code == "QRES-E803"
        assert taken.read_bytes() == b"precious"
        assert not free.exists()
    absent = refused(cli.key, "rotate", free, free, "--statement", free, "--no-passphrase")
    assert absent.code == "QRES-E101"
    one_place = refused(cli.key, "rotate", old, free, "--statement", free, "--no-passphrase")
    assert one_place.code == "QRES-E803"
    assert not free.exists()


def test_check_says_what_is_wrong(tmp_path: Path, pairs: list[SigningKey]) -> None:
    old = tmp_path / "old"
    keyfile.save(old, pairs[0], None)
    for name in ("a", "b"):
        run(cli.key, "rotate", old, tmp_path / f"{name}.key",
            "--statement", tmp_path / name, "--no-passphrase")  # fmt: skip
    fork = refused(cli.key, "check", tmp_path / "a", tmp_path / "b")
    assert "two statements replace" in str(fork)
    (tmp_path / "a").write_bytes(b"\xa0")
    assert "QRES-E402" in str(refused(cli.key, "check", tmp_path / "a"))
    assert refused(cli.key, "check", tmp_path / "absent").code == "QRES-E101"


def test_the_program_itself(tmp_path: Path) -> None:
    program = [sys.executable, "-P", "-c", "from qres_core.cli import main; main()"]

    def qres(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path
        )

    assert qres("keygen", "node.key", "--no-passphrase", "--json").returncode == 0
    again = qres("keygen", "node.key", "--no-passphrase", "--json")
    assert again.returncode == 2
    assert json.loads(again.stdout)["problems"][0]["code"] == "QRES-E803"
    (tmp_path / "node.key").chmod(0o644)
    loose = qres("key", "show", "node.key")
    assert loose.returncode == 2
    assert "chmod 600 node.key" in loose.stderr
    assert "Traceback" not in loose.stderr
