"""The plugin: options, what it refuses, and what it says when libp2p is not there."""

from __future__ import annotations

import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from qres_transport_libp2p import Libp2p
from qres_transport_libp2p.identity import Members, SignerKey, peer_id
from qres_transport_libp2p.pin import LIBP2P

from qres_core import NodeInfo
from qres_core.errors import CompatibilityError, ConfigError, PluginError, TransportError
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import scan
from qres_core.kernel.kernel import Kernel
from qres_core.transport import LinkKeys

KIB = 1024


def make(lab: SimpleNamespace, **options: Any) -> Any:
    me, peer = lab.members(2)
    info = NodeInfo(me.node_id, "test", tuple(sorted((me.node_id, peer.node_id))))
    return Libp2p(**options).transport(info, lab.admit_everybody, bytes, me.keys)


@pytest.mark.control("C-libp2p-1")
def test_it_is_found_by_its_name() -> None:
    found = scan()["libp2p"]
    assert found.distribution == "qres-transport-libp2p"


def test_every_option_has_a_help_and_a_default_that_is_valid() -> None:
    for field in (field for field in attrs.fields(Libp2p) if field.init):
        assert field.metadata["help"].endswith("."), field.name
    assert Libp2p().listen == "/ip4/127.0.0.1/tcp/0"
    assert Libp2p().mdns is False


@pytest.mark.parametrize(
    ("option", "value"),
    [("frame_bytes", 10), ("frame_bytes", 60 * KIB), ("blob_window", 0), ("ping_seconds", 0.0)],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        Libp2p(**{option: value})


def test_options_come_from_the_file(lab: SimpleNamespace) -> None:
    me, _peer = lab.members(2)
    raw: dict[str, Any] = {
        "swarm": {"name": "s", "nodes": 1, "byzantine": 0, "quorum": 1, "insecure": True},
        "plugins": {
            "libp2p": {"peers": [me.address], "frame_bytes": 2048},
            "mean": {"unprotected": True},
        },
    }
    with pytest.raises(CompatibilityError, match=r"QRES-E305 plugins\.libp2p: .* link_keys"):
        Kernel.from_config(parse(raw, source="test"))  # nothing to prove who it is with
    keyed = {"ed25519": {}, **raw["plugins"]}
    kernel = Kernel.from_config(parse({**raw, "plugins": keyed}, source="test"))
    plugin = next(plugin.instance for plugin in kernel.enabled if plugin.name == "libp2p")
    assert isinstance(plugin, Libp2p)
    assert (plugin.peers, plugin.frame_bytes) == ((me.address,), 2048)


@pytest.mark.parametrize("listen", ["", "here", "/ip4/127.0.0.1/udp/1/quic-v1", "/tcp/1"])
def test_where_it_cannot_listen_is_said_before_the_start(lab: SimpleNamespace, listen: str) -> None:
    with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.libp2p\.listen"):
        make(lab, listen=listen)


def test_peers_may_be_named_before_they_are_members(
    lab: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    me, peer, stranger = lab.members(3)
    make(lab, peers=(me.address, peer.address))
    assert not caplog.records
    make(lab, peers=(peer.address, stranger.address))
    (record,) = caplog.records
    assert "plugins.libp2p.peers[1]" in record.getMessage()
    assert "is no member now" in record.getMessage()
    with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.libp2p\.peers\[0\].*/p2p/"):
        make(lab, peers=(peer.listen,))


@pytest.mark.parametrize(
    "place", ["/ip4/127.0.0.1/udp/1/quic-v1", "/dnsaddr/example.org", "/dns4/a.example/tcp/1/ws"]
)
def test_peers_are_reached_by_tcp(lab: SimpleNamespace, place: str) -> None:
    _me, peer = lab.members(2)
    named = peer.address.rpartition("/p2p/")[2]
    for form in ("ip4/127.0.0.1", "ip6/::1", "dns4/a.example", "dns6/a.example", "dns/a.example"):
        make(lab, peers=(f"/{form}/tcp/1/p2p/{named}",))
    with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.libp2p\.peers\[0\].*TCP"):
        make(lab, peers=(f"{place}/p2p/{named}",))


def test_without_a_key_it_says_who_lends_one(lab: SimpleNamespace) -> None:
    me, _peer = lab.members(2)
    info = NodeInfo(me.node_id, "test", (me.node_id,))
    with pytest.raises(ConfigError, match=r"QRES-E103.*link_keys.*ed25519"):
        Libp2p().transport(info, lab.admit_everybody, bytes, None)


@pytest.mark.claim("C-libp2p-1")
def test_where_libp2p_is_missing_it_says_what_to_install(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(PluginError, match=rf"QRES-E202.*libp2p=={LIBP2P}.*libgmp-dev.*Installing"):
        make(lab)


@pytest.mark.claim("C-libp2p-1")
def test_another_release_of_libp2p_is_refused(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "0.9.0")
    with pytest.raises(PluginError, match=rf"QRES-E202.*0\.9\.0.*{LIBP2P}"):
        make(lab)


@pytest.mark.claim("C-libp2p-1")
def test_a_libp2p_that_cannot_be_imported_is_named(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "libp2p", None)
    with pytest.raises(PluginError, match=r"QRES-E202.*cannot be imported.*libgmp-dev"):
        make(lab)


def test_mdns_is_noticed() -> None:
    assert Libp2p().claims.notices == ()
    assert "mdns" in Libp2p(mdns=True).claims.notices[0]


# ── identity ──────────────────────────────────────────────────────────────────────────────────────


def test_a_peer_id_is_that_of_the_specification() -> None:
    assert str(peer_id(bytes(32))) == "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw"


def test_the_private_key_is_not_in_libp2p_s_hands(lab: SimpleNamespace) -> None:
    (me,) = lab.members(1)
    key = SignerKey(me.keys)
    assert key.get_public_key().to_bytes() == me.node_id
    assert key.get_public_key().verify(b"statement", key.sign(b"statement"))
    with pytest.raises(TypeError, match="not here"):
        key.to_bytes()
    with pytest.raises(TypeError, match="not here"):
        key.serialize()


def test_a_node_whose_key_was_replaced_is_known_by_the_new_one(lab: SimpleNamespace) -> None:
    me, peer, new = lab.members(3)
    keys = LinkKeys(me.node_id, me.keys.sign, {peer.node_id: new.node_id}.__getitem__)
    members = Members.of(me.node_id, (me.node_id, peer.node_id), keys)
    assert members.nodes == {peer_id(new.node_id): peer.node_id}
    assert members.own == peer_id(me.node_id)


def test_handlers_are_named_once_and_before_the_start(lab: SimpleNamespace) -> None:
    transport = make(lab)

    async def handler(_node: bytes, data: bytes) -> bytes:
        return data

    transport.handle("ask", handler)
    for name in ("ask", "", "x" * 300):
        with pytest.raises(ValueError, match="protocol"):
            transport.handle(name, handler)


def test_limits_are_those_of_the_options(lab: SimpleNamespace) -> None:
    limits = make(lab, frame_bytes=2048, request_bytes=4096, blob_bytes=2**20).limits
    assert (limits.frame, limits.request, limits.blob) == (2048, 4096, 2**20)
    assert make(lab, blob_bytes=2**20, spool_bytes=2**16).limits.blob == 2**16
    assert TransportError


@pytest.mark.parametrize("shares", [True, False])
def test_a_neighbour_that_floods_leaves_room_in_the_inbox(
    lab: SimpleNamespace, *, shares: bool
) -> None:
    """Whoever the frames are from. The control knows no neighbour."""
    transport = make(lab, inbox_frames=8)
    put = transport._inbox.put
    if not shares:
        transport._inbox.put = lambda item, _source: put(item)
    flooding, honest = bytes([1]) * 32, bytes([2]) * 32
    for number in range(20):
        transport._deliver(flooding, b"flood", bytes([number]) * 32)
    transport._deliver(honest, b"frame", honest)
    assert transport.stats().reasons == {"inbox full": 16 if shares else 13}
