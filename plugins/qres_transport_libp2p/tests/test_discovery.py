"""Finding nodes: by mDNS in the local network, and by host names."""

from __future__ import annotations

import socket
import struct
from contextlib import ExitStack
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from qres_transport_libp2p import discovery, reconnect
from qres_transport_libp2p.discovery import GROUP, MAX_PLACES, PORT, own_places, places_in
from qres_transport_libp2p.identity import peer_id
from qres_transport_libp2p.options import Libp2pOptions
from qres_transport_libp2p.places import PLAIN, form, resolved
from qres_transport_libp2p.reconnect import MAX_FOUND, Reconnector

from qres_core.errors import ConfigError

PEER = peer_id(bytes(32))
OWN = peer_id(bytes([9]) * 32)


def lacks_multicast() -> str:
    """What is missing for mDNS on the loopback interface; empty for nothing."""
    try:
        with ExitStack() as stack:
            ears = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ears.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ears.bind(("", PORT))
            here = socket.inet_aton("127.0.0.1")
            joined = struct.pack("4s4s", socket.inet_aton(GROUP), here)
            ears.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
            ears.settimeout(2.0)
            mouth = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            mouth.sendto(bytes(12), (GROUP, PORT))
            ears.recv(100)
    except OSError as error:
        return f"no multicast on the loopback interface: {type(error).__name__}: {error}"
    return ""


@pytest.fixture
def multicast() -> None:
    if lack := lacks_multicast():
        pytest.skip(lack)


# ── mDNS ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-transport-5")
@pytest.mark.control("C-libp2p-10", "C-libp2p-30")
@pytest.mark.usefixtures("multicast")
@pytest.mark.long
def test_nodes_that_know_no_address_find_each_other(lab: SimpleNamespace) -> None:
    member, two, three, stranger = lab.members(4)
    roster = [member, two, three]

    async def main() -> None:
        async with lab.Swarm() as swarm:
            found = [lab.transport(me, roster, dial=[], mdns=True) for me in (member, two)]
            silent = lab.transport(three, roster, dial=[])
            other = lab.transport(stranger, [*roster, stranger], dial=[], mdns=True)
            await swarm.start(other, silent, *found)
            await lab.connected(*found)
            # The stranger is announced too, and finds them; it is not let in, and they do not dial.
            ids = {peer.node_id for each in (*found, silent, other) for peer in each.peers()}
            assert ids == {member.node_id, two.node_id}
            assert silent.peers() == ()  # control: without mdns nobody finds it

    anyio.run(main, backend="trio")


@pytest.mark.claim("C-libp2p-30")
def test_where_there_is_no_multicast_it_does_not_start(
    lab: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deaf(socket.socket):
        """A socket on an interface without multicast."""

        def setsockopt(self, *arguments: Any) -> None:
            if arguments[1] == socket.IP_ADD_MEMBERSHIP:
                raise OSError(19, "No such device")
            super().setsockopt(*arguments)

    monkeypatch.setattr(discovery.socket, "socket", Deaf)
    me, peer = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            await swarm.start(lab.transport(me, [me, peer], dial=[]))  # not asked for, not tried
        with pytest.raises(
            Exception, match=r"QRES-E603.*no multicast on 127\.0\.0\.1: No such device"
        ):
            await lab.transport(me, [me, peer], dial=[], mdns=True).start()

    anyio.run(main)


@pytest.mark.parametrize("address", ["::", "::1"])
def test_mdns_is_offered_over_ipv4_alone(lab: SimpleNamespace, address: str) -> None:
    me, peer = lab.members(2)
    lab.transport(me, [me, peer], dial=[], listen=f"/ip6/{address}/tcp/4001")
    with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.libp2p\.mdns"):
        lab.transport(me, [me, peer], dial=[], mdns=True, listen=f"/ip6/{address}/tcp/4001")


def test_nodes_meet_over_ipv6(lab: SimpleNamespace) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError as error:
        pytest.skip(f"no IPv6 on the loopback interface: {error}")
    member, two = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            six = [each.address.replace("/ip4/127.0.0.1", "/ip6/::1") for each in (member, two)]
            listens = [each.partition("/p2p/")[0] for each in six]
            first = lab.transport(member, [member, two], dial=[], listen=listens[0])
            second = lab.transport(two, [member, two], listen=listens[1], peers=(six[0],))
            await swarm.start(first, second)
            await lab.connected(first, second)
            assert second.peers()[0].address == f"[::1]:{listens[0].rpartition('/')[2]}"

    anyio.run(main)


@pytest.mark.claim("C-transport-5")
@pytest.mark.parametrize(
    ("listen", "announced"),
    [
        ("/ip4/127.0.0.1/tcp/7", ["/ip4/127.0.0.1/tcp/7"]),
        ("/ip4/0.0.0.0/tcp/7", ["/ip4/10.0.0.1/tcp/7", "/ip4/192.0.2.2/tcp/7"]),
    ],
)
def test_what_is_announced_can_be_dialled(listen: str, announced: list[str]) -> None:
    machine = ["192.0.2.2", "127.0.0.1", "10.0.0.1"]
    made = own_places(Multiaddr(listen), PEER, machine)
    assert made == [f"{address}/p2p/{PEER}" for address in announced]
    keys = [f"dnsaddr{number}".encode() for number in range(len(made))]
    said = dict(zip(keys, (item.encode() for item in made), strict=True))
    assert list(places_in(said)) == [(PEER, Multiaddr(address)) for address in announced]


def test_a_machine_without_a_network_announces_loopback() -> None:
    made = own_places(Multiaddr("/ip4/0.0.0.0/tcp/7"), PEER, ["127.0.0.1"])
    assert made == [f"/ip4/127.0.0.1/tcp/7/p2p/{PEER}"]


@given(
    st.dictionaries(
        st.binary(max_size=12) | st.integers(0, 99).map(lambda number: b"dnsaddr%d" % number),
        st.none()
        | st.binary(max_size=300)
        | st.sampled_from(
            [
                f"{place}/p2p/{PEER}".encode()
                for place in (
                    "/ip4/10.0.0.1/tcp/1",
                    "/dns4/evil.example/tcp/1",
                    "/ip4/1.2.3.4/udp/1",
                )
            ]
        ),
        max_size=40,
    )
)
def test_whatever_is_announced_few_plain_addresses_are_taken(
    properties: dict[bytes, bytes | None],
) -> None:
    taken = list(places_in(properties))
    assert len(taken) <= MAX_PLACES
    assert {form(place) for _peer, place in taken} <= set(PLAIN)


class _Sessions(SimpleNamespace):
    """Of the sessions what a keeper asks."""

    def __init__(self, peer: ID) -> None:
        self.started: list[Any] = []
        self.members = SimpleNamespace(own=OWN, nodes={peer: bytes(32)})

    def start(self, _work: object, *arguments: object) -> None:
        self.started.append(arguments)


def keeper(peer: ID) -> tuple[Reconnector, _Sessions]:
    sessions = _Sessions(peer)
    nothing: Any = None
    made: Any = sessions
    return Reconnector(made, nothing, nothing, Libp2pOptions(), nothing), sessions


@pytest.mark.claim("C-transport-5")
def test_who_floods_the_network_does_not_push_out_the_operator_s_address() -> None:
    keep, sessions = keeper(PEER)
    told = Multiaddr("/ip4/192.0.2.7/tcp/4001")
    keep.want(PEER, told)
    for number in range(1000):
        keep.found(PEER, [Multiaddr(f"/ip4/10.0.{number // 250}.{number % 250}/tcp/1")])
    assert keep.places(PEER)[0] == told
    assert len(keep.places(PEER)) == 1 + MAX_FOUND
    assert sessions.started == [(PEER,)]  # one task, however often it is named
    stranger = peer_id(bytes([1]) * 32)
    keep.found(stranger, [told])
    assert keep.places(stranger) == []
    keep.want(OWN, told)
    assert keep.places(OWN) == []
    keep.want(stranger, told)  # the operator may name who is a member later
    assert keep.places(stranger) == [told]


@pytest.mark.control("C-transport-5")
def test_control_an_address_that_was_only_announced_is_pushed_out() -> None:
    keep, _sessions = keeper(PEER)
    told = Multiaddr("/ip4/192.0.2.7/tcp/4001")
    keep.found(PEER, [told])
    for number in range(MAX_FOUND):
        keep.found(PEER, [Multiaddr(f"/ip4/10.0.0.{number}/tcp/1")])
    assert told not in keep.places(PEER)


# ── host names ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-transport-5")
@pytest.mark.parametrize("kind", ["dns4", "dns"])
def test_a_peer_may_be_named_by_its_host(lab: SimpleNamespace, kind: str) -> None:
    member, two = lab.members(2)

    async def main() -> None:
        async with lab.Swarm() as swarm:
            named = member.address.replace("/ip4/127.0.0.1", f"/{kind}/localhost")
            first = lab.transport(member, [member, two], dial=[])
            second = lab.transport(two, [member, two], peers=(named,))
            await swarm.start(first, second)
            await lab.connected(first, second)

    anyio.run(main)


def test_a_name_is_looked_up_as_the_machine_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    answers = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 4001)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", 4001)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fd00::7", 4001, 0, 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("fe80::7%eth0", 4001, 0, 2)),
    ]

    async def lookup(name: str, port: int, *, family: int, **_more: object) -> Any:
        asked.append((name, port, family))
        return answers

    monkeypatch.setattr(trio.socket, "getaddrinfo", lookup)
    found = trio.run(resolved, Multiaddr("/dns/node.example.org/tcp/4001"))
    assert [str(item) for item in found] == ["/ip4/192.0.2.7/tcp/4001", "/ip6/fd00::7/tcp/4001"]
    trio.run(resolved, Multiaddr("/dns4/node.example.org/tcp/4001"))
    assert asked == [
        ("node.example.org", 4001, socket.AF_UNSPEC),
        ("node.example.org", 4001, socket.AF_INET),
    ]
    plain = Multiaddr("/ip4/192.0.2.7/tcp/4001")
    assert trio.run(resolved, plain) == [plain]
    assert len(asked) == 2


def test_a_name_that_leads_nowhere_does_not_hide_the_other_places(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def lookup(place: Multiaddr) -> list[Multiaddr]:
        if form(place) in PLAIN:
            return [place]
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(reconnect, "resolved", lookup)
    keep, _sessions = keeper(PEER)
    plain = Multiaddr("/ip4/192.0.2.7/tcp/4001")
    for place in (Multiaddr("/dns4/gone.example/tcp/1"), plain):
        keep.want(PEER, place)
    assert trio.run(keep._resolved, PEER) == [plain]
    assert "gone.example" in caplog.text
