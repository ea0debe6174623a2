"""mDNS without a network: what is announced, and what becomes of others' announcements."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from qres_transport_libp2p import discovery
from qres_transport_libp2p.discovery import SERVICE, nearby, own_places
from qres_transport_libp2p.identity import peer_id

OWN, PEER = peer_id(bytes(32)), peer_id(bytes([1]) * 32)
PLACE = "/ip4/10.0.0.1/tcp/7"
SAID = {b"dnsaddr": f"{PLACE}/p2p/{PEER}".encode()}


class Zeroconf:
    """Keeps what is announced; ``answers`` are of others, or an error."""

    made: list[Zeroconf] = []  # noqa: RUF012 - emptied by the fixture
    answers: Any = None
    refuses = False

    def __init__(self, **options: object) -> None:
        self.options = options
        self.announced: list[Any] = []
        self.closed = False
        self.made.append(self)

    def register_service(self, info: object) -> None:
        if self.refuses:
            what = "the name is taken"
            raise OSError(what)
        self.announced.append(info)

    def get_service_info(self, *_asked: object) -> object:
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    def close(self) -> None:
        self.closed = True


class Browser:
    """Hands its listener to the test."""

    listener: Any = None

    def __init__(self, _zeroconf: object, service: str, listener: object) -> None:
        assert service == SERVICE
        type(self).listener = listener


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> type[Zeroconf]:
    monkeypatch.setattr(Zeroconf, "made", [])
    monkeypatch.setattr(discovery, "Zeroconf", Zeroconf)
    monkeypatch.setattr(discovery, "ServiceBrowser", Browser)
    monkeypatch.setattr(discovery, "_check_multicast", lambda _places: None)
    return Zeroconf


def around(listen: str, within: Any = lambda: None) -> list[tuple[ID, list[Multiaddr]]]:
    """Who was found while this node announced itself."""
    found: list[tuple[ID, list[Multiaddr]]] = []

    def want(peer: ID, places: Iterable[Multiaddr]) -> None:
        found.append((peer, list(places)))

    async def main() -> None:
        async with nearby(Multiaddr(listen), OWN, want):
            await trio.to_thread.run_sync(within)
            await trio.testing.wait_all_tasks_blocked()

    trio.run(main)
    return found


def test_the_address_listened_on_is_announced_and_taken_back_at_the_end(
    network: type[Zeroconf],
) -> None:
    listen = "/ip4/127.0.0.1/tcp/4001"
    assert around(listen) == []
    (zeroconf,) = network.made
    (info,) = zeroconf.announced
    assert info.port == 4001
    assert info.properties == {b"dnsaddr": f"{listen}/p2p/{OWN}".encode()}
    assert info.parsed_addresses() == ["127.0.0.1"]
    assert zeroconf.options["interfaces"] == ["127.0.0.1"]
    assert zeroconf.closed
    # The name says nothing of the node, and is another one every time.
    around(listen)
    assert network.made[1].announced[0].name != info.name


def test_for_the_wildcard_the_machine_s_addresses_are_announced(
    network: type[Zeroconf], monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = SimpleNamespace(
        ips=[
            SimpleNamespace(ip="10.0.0.9"),
            SimpleNamespace(ip=("fe80::1", 0, 2)),  # no IPv4
            SimpleNamespace(ip="10.0.0.8"),
        ]
    )
    monkeypatch.setattr(discovery.ifaddr, "get_adapters", lambda: [adapter])
    around("/ip4/0.0.0.0/tcp/4001")
    (zeroconf,) = network.made
    assert zeroconf.options["interfaces"] is discovery.InterfaceChoice.All
    assert zeroconf.announced[0].parsed_addresses() == ["10.0.0.8", "10.0.0.9"]
    said = list(discovery.places_in(zeroconf.announced[0].properties))
    named = own_places(Multiaddr("/ip4/0.0.0.0/tcp/4001"), OWN, ["10.0.0.8", "10.0.0.9"])
    assert [f"{place}/p2p/{peer}" for peer, place in said] == named


def test_whom_others_announce_is_passed_on_in_the_node_s_own_thread(
    network: type[Zeroconf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "answers", SimpleNamespace(properties=SAID))

    def announced() -> None:
        for tell in (Browser.listener.add_service, Browser.listener.update_service):
            tell(network.made[0], SERVICE, "somebody")
        Browser.listener.remove_service(network.made[0], SERVICE, "somebody")

    # Told when it comes and when it changes; who goes is not dialled again for that.
    assert around("/ip4/127.0.0.1/tcp/1", announced) == [(PEER, [Multiaddr(PLACE)])] * 2


@pytest.mark.parametrize(
    "answers",
    [None, SimpleNamespace(properties={b"dnsaddr": b"\xff"}), RuntimeError("what packets provoke")],
)
def test_an_announcement_that_says_nothing_is_passed_over(
    network: type[Zeroconf], monkeypatch: pytest.MonkeyPatch, answers: object
) -> None:
    monkeypatch.setattr(network, "answers", answers)
    told = around(
        "/ip4/127.0.0.1/tcp/1",
        lambda: Browser.listener.add_service(network.made[0], SERVICE, "somebody"),
    )
    assert told == []


def test_an_announcement_after_the_end_harms_nobody(
    network: type[Zeroconf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "answers", SimpleNamespace(properties=SAID))
    found = around("/ip4/127.0.0.1/tcp/1")
    Browser.listener.add_service(network.made[0], SERVICE, "somebody")
    assert found == []


def test_where_the_announcement_is_refused_nothing_stays_open(
    network: type[Zeroconf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "refuses", True)
    with pytest.raises(OSError, match="the name is taken"):
        around("/ip4/127.0.0.1/tcp/1")
    assert network.made[0].closed


def test_a_machine_without_any_address_is_refused() -> None:
    with pytest.raises(OSError, match="the machine has no address"):
        discovery._check_multicast([])


def test_multicast_on_the_second_of_two_addresses_is_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Half(socket.socket):
        """Has multicast on one of two interfaces."""

        def setsockopt(self, *arguments: Any) -> None:
            if bytes(arguments[2])[-4:] == socket.inet_aton("10.0.0.1"):
                raise OSError(19, "No such device")

        def connect(self, _address: object) -> None:
            pass

    monkeypatch.setattr(discovery.socket, "socket", Half)
    discovery._check_multicast(["10.0.0.1", "10.0.0.2"])
    with pytest.raises(OSError, match=r"no multicast on 10\.0\.0\.1: No such device"):
        discovery._check_multicast(["10.0.0.1"])
