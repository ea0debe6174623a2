"""The laws of the router, on a clock of the test: nothing here takes time or needs a namespace."""

from __future__ import annotations

import itertools

import pytest
from trials.shaping import Fabric

PACKET = bytes(1000)


def drained(fabric: Fabric) -> list[tuple[float, int, bytes]]:
    """What arrives, when it is due, with the clock going from one to the next."""
    found: list[tuple[float, int, bytes]] = []
    while (now := fabric.next) is not None:
        found += fabric.due(now)
    return found


def test_a_packet_is_as_late_as_its_path_is_long_and_no_other() -> None:
    fabric = Fabric(3)
    fabric.paths[0, 1].delay = 0.25
    fabric.take(1.0, 0, 1, b"slow")
    fabric.take(1.0, 0, 2, b"fast")
    fabric.take(1.0, 1, 0, b"back")
    assert list(fabric.due(1.2)) == [(1.0, 2, b"fast"), (1.0, 0, b"back")]
    assert fabric.next == 1.25
    assert list(fabric.due(1.3)) == [(1.25, 1, b"slow")]
    assert fabric.next is None


def test_a_line_carries_its_rate_however_late_the_router_is_woken() -> None:
    fabric = Fabric(2)
    fabric.up[0].rate, fabric.up[0].queue = 10_000, 60.0
    for _ in range(100):
        fabric.take(0.0, 0, 1, PACKET)
    # 100 kB at 10 kB/s; the router sleeps for 7 s at a time.
    found = [item for now in (7.0, 14.0) for item in fabric.due(now)]
    assert [at for at, _target, _packet in found] == pytest.approx(
        [0.1 * (number + 1) for number in range(100)]
    )


def test_what_all_send_to_one_node_shares_the_line_of_that_node() -> None:
    fabric = Fabric(5)
    fabric.down[0].rate, fabric.down[0].queue = 4_000, 60.0
    for source, _packet in itertools.product(range(1, 5), range(3)):
        fabric.take(0.0, source, 0, PACKET)
    found = drained(fabric)
    assert [at for at, _target, _packet in found] == pytest.approx(
        [0.25 * (number + 1) for number in range(12)]
    )


def test_a_queue_holds_so_many_seconds_and_drops_what_comes_later() -> None:
    fabric = Fabric(2)
    fabric.up[0].rate, fabric.up[0].queue = 10_000, 0.5
    for _ in range(100):
        fabric.take(0.0, 0, 1, PACKET)
    counts = fabric.paths[0, 1].counts
    assert len(drained(fabric)) == counts.delivered == 6  # one leaves, half a second of them wait
    assert counts.full == 94
    fabric.take(10.0, 0, 1, PACKET)  # there is room again
    assert len(drained(fabric)) == 1


def test_order_is_kept_on_a_path_whatever_its_rates_are() -> None:
    fabric = Fabric(3, seed=5)
    fabric.up[0].rate, fabric.down[1].rate = 50_000, 30_000
    for line in (*fabric.up, *fabric.down):
        line.queue = 60.0
    fabric.paths[0, 1].delay = fabric.paths[2, 1].delay = 0.05
    for number in range(200):
        fabric.take(number * 0.01, 0, 1, b"%d" % number * 300)
        fabric.take(number * 0.01, 2, 1, b"x" * 400)
    # Woken seldom, so that several are due at once.
    found = [item for now in range(60) for item in fabric.due(float(now))]
    mine = [int(packet[: len(packet) // 300]) for _at, _to, packet in found if packet[:1] != b"x"]
    assert mine == list(range(200))
    assert [at for at, *_rest in found] == sorted(at for at, *_rest in found)


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_a_path_loses_its_share_as_the_seed_decides(share: float) -> None:
    def lost(seed: int, *, busy: bool) -> tuple[int, list[bytes]]:
        fabric = Fabric(3, seed)
        fabric.paths[0, 1].loss = fabric.paths[2, 1].loss = share
        for number in range(20_000):
            fabric.take(0.0, 0, 1, number.to_bytes(2, "big"))
            if busy:
                fabric.take(0.0, 2, 1, b"other")
        arrived = [packet for _at, _to, packet in drained(fabric) if packet != b"other"]
        return fabric.paths[0, 1].counts.lost, arrived

    count, arrived = lost(7, busy=False)
    # Six standard deviations of the binomial law.
    assert abs(count - 20_000 * share) < 6 * (20_000 * share * (1 - share)) ** 0.5
    assert lost(7, busy=True) == (count, arrived)  # what others send decides nothing
    assert lost(8, busy=False)[1] != arrived


def test_a_cut_stops_what_is_sent_and_what_is_under_way_on_that_path_alone() -> None:
    fabric = Fabric(3)
    for path in fabric.paths.values():
        path.delay = 1.0
    fabric.take(0.0, 0, 1, b"under way")
    fabric.take(0.0, 0, 2, b"elsewhere")
    fabric.paths[0, 1].cut = True
    fabric.take(0.5, 0, 1, b"cut")
    fabric.take(0.5, 1, 0, b"the other way")
    assert [packet for _at, _to, packet in drained(fabric)] == [b"elsewhere", b"the other way"]
    assert fabric.paths[0, 1].counts.cut == 2
    fabric.paths[0, 1].cut = False
    fabric.take(5.0, 0, 1, b"mended")
    assert [packet for _at, _to, packet in drained(fabric)] == [b"mended"]


def test_counts_add_up() -> None:
    fabric = Fabric(2, seed=3)
    fabric.up[0].rate, fabric.down[1].rate = 100_000, 70_000
    path = fabric.paths[0, 1]
    path.loss, path.delay = 0.1, 0.02
    for number in range(2000):
        path.cut = 500 <= number < 700
        fabric.take(number * 0.008, 0, 1, PACKET)
        list(fabric.due(number * 0.008))
    drained(fabric)
    counts = path.counts
    assert counts.packets == 2000
    assert counts.octets == 2000 * len(PACKET)
    assert counts.lost + counts.full + counts.cut + counts.delivered == counts.packets
    assert min(counts.lost, counts.full, counts.cut, counts.delivered) > 0
    assert counts.delivered_octets == counts.delivered * len(PACKET)
