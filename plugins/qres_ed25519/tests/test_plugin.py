"""The plugin's hooks: the suite of the contract, its options, and who may be whom."""

# ruff: noqa: S106 - names of environment variables

from __future__ import annotations

import hashlib
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from qres_ed25519 import Ed25519
from qres_ed25519 import plugin as module
from qres_ed25519.signature import L, SigningKey, verify
from qres_lab.testing import AuthenticatorContract, host, make_envelope

from qres_core import ACCEPT, Blame, NodeInfo, Surroundings, reject
from qres_core.errors import ConfigError, OptionError, PluginError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qres_core import Envelope, Verdict
    from qres_core.kernel.kernel import Kernel

NO_SIGNATURE = reject("no-signature", blame=Blame.LINK)
BAD_SIGNATURE = reject("bad-signature", blame=Blame.LINK)


class TestContract(AuthenticatorContract):
    name = "ed25519"

    def make(self) -> object:
        plugin = Ed25519()
        plugin.identity(bytes(32))
        return plugin

    def sender(self) -> bytes:
        return Ed25519().identity(bytes(32))


class TestContractInASwarm(TestContract):
    def make(self) -> object:
        plugin = Ed25519()
        node_id = plugin.identity(bytes(32))
        plugin.setup(NodeInfo(node_id, "testing", (node_id,), seed=0))
        return plugin


def signed(plugin: Ed25519, sender: bytes, **fields: Any) -> Envelope:
    envelope = make_envelope(sender=sender, **fields)
    return envelope.with_auth({"ed25519": plugin.sign(envelope)})


def test_entry_points_lead_to_the_class_and_the_verbs() -> None:
    (found,) = entry_points(group="qres.plugins", name="ed25519")
    assert found.load() is Ed25519
    verbs = {ep.name for ep in entry_points(group="qres.commands") if "ed25519" in ep.value}
    assert verbs == {"key", "keygen"}


def test_every_option_is_explained() -> None:
    options = [field for field in attrs.fields(Ed25519) if field.init]
    assert [field.name for field in options] == [
        "key",
        "passphrase_env",
        "require_signature",
        "rotations",
    ]
    assert all(len(field.metadata["help"]) > 20 for field in options)
    assert Ed25519().require_signature is True
    assert host(Ed25519()).hook.setup.get_hookimpls()


@pytest.mark.parametrize("value", ["correct horse", "1ABC", "A-B", "A=B", "ä", " A"])
def test_a_passphrase_in_place_of_a_variable_is_refused_and_not_repeated(value: str) -> None:
    with pytest.raises(OptionError, match="passphrase_env: must be the name") as refusal:
        Ed25519(passphrase_env=value)
    assert value not in str(refusal.value)


def test_secrets_are_not_in_the_repr(lab: Callable[..., Ed25519]) -> None:
    plugin = lab()
    assert repr(plugin) == (
        "Ed25519(key='', passphrase_env='', require_signature=True, rotations=())"
    )


# ── identity ──────────────────────────────────────────────────────────────────────────────────


def test_lab_identities_follow_the_seed_alone(lab: Callable[..., Ed25519]) -> None:
    first, again, other = (Ed25519().identity(seed) for seed in (b"a" * 32, b"a" * 32, b"b" * 32))
    assert first == again != other
    # The seed is known to everybody; the domain keeps it from being anybody's real key.
    assert first != SigningKey.from_seed(b"a" * 32).public
    derived = hashlib.sha256(b"qres/ed25519/lab-key/v1\0" + b"a" * 32).digest()
    assert first == SigningKey.from_seed(derived).public
    assert Ed25519(key="absent", rotations=("absent",)).identity(b"a" * 32) == first
    assert signed(lab(b"a" * 32), first).auth["ed25519"]


@pytest.mark.control("C-keys-1")
def test_a_real_node_reads_its_key_file(
    pairs: list[SigningKey], key_file: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QRES_KEY_FILE", key_file(pairs[1], "env.key"))
    assert Ed25519(key=key_file(pairs[0])).identity(None) == pairs[0].public
    assert Ed25519().identity(None) == pairs[1].public


@pytest.mark.claim("C-keys-1")
@pytest.mark.parametrize("value", [None, ""])
def test_no_key_file_is_named(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QRES_KEY_FILE", raising=False)
    if value is not None:
        monkeypatch.setenv("QRES_KEY_FILE", value)
    with pytest.raises(ConfigError, match=r"plugins\.ed25519\.key.*qres keygen") as refusal:
        Ed25519().identity(None)
    assert refusal.value.code == "QRES-E103"


def test_the_error_says_which_source_named_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QRES_KEY_FILE", str(tmp_path / "absent"))
    with pytest.raises(ConfigError, match=r"^QRES-E101 QRES_KEY_FILE: .*absent"):
        Ed25519().identity(None)
    with pytest.raises(ConfigError, match=r"^QRES-E101 plugins\.ed25519\.key: other"):
        Ed25519(key="other").identity(None)


def test_an_encrypted_file_opens_with_the_variable(
    pairs: list[SigningKey], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qres_ed25519 import keyfile  # noqa: PLC0415 - only these tests pay for cryptography

    path = tmp_path / "node.key"
    keyfile.save(path, pairs[0], b"a long enough passphrase")
    monkeypatch.setenv("NODE_PASS", "a long enough passphrase")
    assert Ed25519(key=str(path), passphrase_env="NODE_PASS").identity(None) == pairs[0].public
    monkeypatch.setenv("NODE_PASS", "a long enough passphrasf")
    with pytest.raises(ConfigError, match="the passphrase is wrong"):
        Ed25519(key=str(path), passphrase_env="NODE_PASS").identity(None)
    monkeypatch.delenv("NODE_PASS")
    with pytest.raises(ConfigError, match=r"plugins\.ed25519\.passphrase_env: .*NODE_PASS"):
        Ed25519(key=str(path), passphrase_env="NODE_PASS").identity(None)


# ── setup ─────────────────────────────────────────────────────────────────────────────────────


def test_setup_reads_the_key_where_nobody_asked_for_the_identity(
    pairs: list[SigningKey], key_file: Callable[..., str]
) -> None:
    plugin = Ed25519(key=key_file(pairs[0]))
    public = pairs[0].public
    plugin.setup(NodeInfo(public, "testing", (public,)))
    assert plugin.authenticate(signed(plugin, public)) is ACCEPT


def test_a_node_under_another_name_than_its_keys_is_refused(
    pairs: list[SigningKey], key_file: Callable[..., str]
) -> None:
    plugin = Ed25519(key=key_file(pairs[0]))
    other = pairs[1].public
    with pytest.raises(ConfigError, match=pairs[0].public.hex()) as refusal:
        plugin.setup(NodeInfo(other, "testing", (other,)))
    assert refusal.value.code == "QRES-E105"
    assert other.hex() in str(refusal.value)


def test_a_simulated_node_must_ask_for_its_identity() -> None:
    with pytest.raises(ConfigError, match="not asked for"):
        Ed25519().setup(NodeInfo(bytes(32), "testing", (bytes(32),), seed=0))


@pytest.mark.parametrize("bad", [bytes(32), b"\xff" * 32, b"\1" + bytes(31), b"\2" + bytes(31)])
def test_a_roster_with_something_that_is_no_key_is_refused(
    bad: bytes, lab: Callable[..., Ed25519]
) -> None:
    with pytest.raises(ConfigError, match=r"swarm\.roster") as refusal:
        lab(others=(bad,))
    assert bad.hex() in str(refusal.value)


def test_signing_without_a_key_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no key to sign with") as refusal:
        Ed25519().sign(make_envelope())
    assert refusal.value.code == "QRES-E103"


# ── authenticate ──────────────────────────────────────────────────────────────────────────────


def test_what_is_signed_is_the_digest_of_the_whole_message(lab: Callable[..., Ed25519]) -> None:
    plugin = lab()
    envelope = make_envelope()
    pair = plugin._pair
    assert pair is not None
    assert plugin.sign(envelope) == pair.sign(envelope.signing_digest)


def test_reasons_and_blame(lab: Callable[..., Ed25519]) -> None:
    plugin, other = lab(), lab(b"o" * 32)
    sender = plugin.identity(bytes(32))
    good = signed(plugin, sender)
    assert plugin.authenticate(good) is ACCEPT
    assert plugin.authenticate(good.with_auth({})) == NO_SIGNATURE
    assert plugin.authenticate(good.with_auth({"pki": good.auth["ed25519"]})) == NO_SIGNATURE
    for octets in (b"", good.auth["ed25519"][:63], good.auth["ed25519"] + b"\0", bytes(64)):
        assert plugin.authenticate(good.with_auth({"ed25519": octets})) == BAD_SIGNATURE
    assert plugin.authenticate(signed(other, sender)) == BAD_SIGNATURE


def test_a_message_says_nothing_about_another(lab: Callable[..., Ed25519]) -> None:
    plugin = lab(others=(Ed25519().identity(b"o" * 32),))
    sender = plugin.identity(bytes(32))
    good = signed(plugin, sender)
    swaps: dict[str, Any] = {
        "swarm": "testing2",
        "kind": "vote",
        "round": 2,
        "head": bytes(32),
        "sender": Ed25519().identity(b"o" * 32),
        "sequence": 1,
        "time_ms": 1,
        "payload": b"payloae",
    }
    for field, value in swaps.items():
        assert getattr(good, field) != value
        assert plugin.authenticate(attrs.evolve(good, **{field: value})) == BAD_SIGNATURE, field
    for fields in ({"payload": b"q"}, {"sequence": 9}, {"kind": "vote"}):
        another = signed(plugin, sender, **fields)
        assert plugin.authenticate(another) is ACCEPT
        moved = another.with_auth(good.auth)
        assert plugin.authenticate(moved) == BAD_SIGNATURE


def naive(envelope: Envelope) -> Verdict:
    """A hook that trusts what a message says of itself: any signature by any key it brings."""
    return ACCEPT if len(envelope.auth.get("ed25519", b"")) == 64 else NO_SIGNATURE


def test_control_a_naive_hook_lets_everything_pass(lab: Callable[..., Ed25519]) -> None:
    victim = Ed25519().identity(b"v" * 32)
    attacker = lab(b"a" * 32, others=(victim,))
    forged = signed(attacker, victim)
    assert naive(forged) is ACCEPT
    assert attacker.authenticate(forged) == BAD_SIGNATURE


def test_a_second_signature_of_one_message(lab: Callable[..., Ed25519]) -> None:
    plugin = lab()
    good = signed(plugin, plugin.identity(bytes(32)))
    octets = good.auth["ed25519"]
    forged = octets[:32] + (int.from_bytes(octets[32:], "little") + L).to_bytes(32, "little")
    assert plugin.authenticate(good.with_auth({"ed25519": forged})) == BAD_SIGNATURE


def test_senders_that_are_no_key(lab: Callable[..., Ed25519]) -> None:
    # The same signature fits any message of the key of order 1; before set-up as after it.
    item = b"\1" + bytes(31)
    forged = make_envelope(sender=item).with_auth({"ed25519": b"\x58" + b"\x66" * 31 + item})
    for plugin in (Ed25519(), lab()):
        assert plugin.authenticate(forged) == BAD_SIGNATURE


def test_senders_that_are_no_key_are_not_left_to_the_library(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "verify", lambda *_arguments: True)
    forged = make_envelope(sender=b"\1" + bytes(31)).with_auth({"ed25519": bytes(64)})
    assert Ed25519().authenticate(forged) == BAD_SIGNATURE


def test_authenticate_keeps_nothing_for_strangers(lab: Callable[..., Ed25519]) -> None:
    plugin, stranger = lab(), lab(b"s" * 32)
    before = dict(plugin._keys)
    for number in range(50):
        plugin.authenticate(signed(stranger, number.to_bytes(32, "big")))
    assert plugin._keys == before
    assert len(before) == 1


@pytest.mark.control("C-keys-2")
def test_optional_signatures(lab: Callable[..., Ed25519]) -> None:
    plugin = lab(require_signature=False)
    good = signed(plugin, plugin.identity(bytes(32)))
    assert plugin.authenticate(good) is ACCEPT
    assert plugin.authenticate(good.with_auth({})) is ACCEPT
    for octets in (b"", bytes(64), good.auth["ed25519"][:-1]):
        assert plugin.authenticate(good.with_auth({"ed25519": octets})) == BAD_SIGNATURE


@pytest.mark.claim("C-keys-2")
def test_optional_signatures_are_announced(make_kernel: Callable[..., Kernel]) -> None:
    assert Ed25519().claims.notices == ()
    notices = make_kernel(require_signature=False).solution.notices
    assert [notice for notice in notices if "anybody can speak for anybody" in notice]
    assert not [notice for notice in make_kernel().solution.notices if "ed25519" in notice]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"require_signature": "false"}, "QRES-E104"),
        ({"key": 3}, "QRES-E104"),
        ({"rotations": "file"}, "QRES-E104"),
        ({"required_signature": False}, "QRES-E102"),
        ({"passphrase_env": "my secret"}, "QRES-E105"),
    ],
)
def test_options_are_read_strictly(
    options: dict[str, Any], code: str, make_kernel: Callable[..., Kernel]
) -> None:
    with pytest.raises(PluginError, match=code):
        make_kernel(**options)


# ── many at once ──────────────────────────────────────────────────────────────────────────────


def crowd(plugin: Ed25519, count: int, bad: Sequence[int]) -> list[Envelope]:
    sender = plugin.identity(bytes(32))
    envelopes = [signed(plugin, sender, sequence=number) for number in range(count)]
    for number in bad:
        octets = bytearray(envelopes[number].auth["ed25519"])
        octets[number % 64] ^= 1
        envelopes[number] = envelopes[number].with_auth({"ed25519": bytes(octets)})
    return envelopes


@pytest.mark.claim("C-keys-10")
@pytest.mark.parametrize("count", [0, 1, 31, 63, 64, 65, 200])
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_many_get_the_verdicts_of_the_loop(
    count: int, cores: int, lab: Callable[..., Ed25519], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _pid: set(range(cores)))
    plugin = lab()
    envelopes = crowd(plugin, count, [])
    expected = [plugin.authenticate(envelope) for envelope in envelopes]
    assert plugin.authenticate_many(envelopes) == expected == [ACCEPT] * count


@pytest.mark.control("C-keys-10")
@pytest.mark.parametrize("bad", [0, 63, 64, 99, 100, 127])
def test_one_bad_among_many_is_the_only_one(
    bad: int, lab: Callable[..., Ed25519], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _pid: {0, 1, 2})
    plugin = lab()
    envelopes = crowd(plugin, 128, [bad])
    envelopes[5] = envelopes[5].with_auth({})
    verdicts = plugin.authenticate_many(envelopes)
    assert verdicts == [plugin.authenticate(envelope) for envelope in envelopes]
    assert [i for i, verdict in enumerate(verdicts) if verdict is not ACCEPT] == sorted({5, bad})
    assert verdicts[bad] == BAD_SIGNATURE
    assert verdicts[5] == NO_SIGNATURE


def test_many_are_shared_out_and_few_are_not(
    lab: Callable[..., Ed25519], monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = lab()
    threads: set[int] = set()
    verify = module.verify

    def watched(*arguments: bytes) -> bool:
        threads.add(threading.get_ident())
        return verify(*arguments)

    monkeypatch.setattr(module, "verify", watched)
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _pid: {0, 1})
    plugin.authenticate_many(crowd(plugin, 63, []))
    assert threads == {threading.get_ident()}
    threads.clear()
    plugin.authenticate_many(crowd(plugin, 64, []))
    assert threads
    assert threading.get_ident() not in threads


# ── keys of connections ───────────────────────────────────────────────────────────────────────────


def test_a_connection_is_signed_by_the_key_of_the_node(lab: Callable[..., Ed25519]) -> None:
    plugin = lab()
    keys = plugin.link_keys()
    statement = b"noise-libp2p-static-key:" + bytes(32)
    assert keys.public == plugin.identity(bytes(32)) == keys.key_of(keys.public)
    assert verify(keys.public, statement, keys.sign(statement))


def test_a_connection_cannot_be_made_to_sign_a_message(lab: Callable[..., Ed25519]) -> None:
    plugin = lab()
    envelope = make_envelope(sender=plugin.identity(bytes(32)))
    assert len(envelope.signing_digest) == 32
    with pytest.raises(ValueError, match="32 bytes"):
        plugin.link_keys().sign(envelope.signing_digest)


def test_there_are_no_keys_of_connections_before_the_identity() -> None:
    with pytest.raises(ConfigError, match="QRES-E103"):
        Ed25519().link_keys()


def test_a_roster_with_what_is_no_key_is_found_before_the_start() -> None:
    good = Ed25519().identity(bytes(32)).hex()
    around = Surroundings(nodes=2, byzantine=0, quorum=1, roster=(good, bytes(32).hex()))
    (problem,) = Ed25519().check(around)
    assert (problem.code, problem.where) == ("QRES-E105", "swarm.roster")
    assert bytes(32).hex() in problem.what
    assert list(Ed25519().check(attrs.evolve(around, roster=(good,)))) == []
