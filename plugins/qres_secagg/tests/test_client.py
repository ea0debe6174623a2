"""What a node refuses, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qres_secagg.client import Client, Phase
from qres_secagg.failure import Reason, SecaggError
from qres_secagg.messages import Listing, decode_listing, encode_listing

from qres_core.errors import ValueRefusedError

Make = Callable[..., Any]


def refused(reason: Reason, action: Callable[[], object]) -> SecaggError:
    with pytest.raises(SecaggError) as caught:
        action()
    assert caught.value.reason is reason
    assert caught.value.code == "QRES-E604"
    return caught.value


def test_every_step_is_taken_once_and_in_order(make_swarm: Make) -> None:
    swarm = make_swarm(5)
    client = swarm.clients[0]
    vector = np.zeros(20, np.int32)
    steps: list[Callable[[], object]] = [
        client.advertise,
        client.share,
        lambda: client.adopt(b""),
        lambda: client.mask(vector),
        lambda: client.state({}),
        client.unmask,
    ]

    def others_refused(now: int) -> None:
        for i, step in enumerate(steps):
            if i != now and not (i == 4 and now == 3):  # stating without an input is allowed
                refused(Reason.OUT_OF_ORDER, step)

    others_refused(0)
    swarm.advertise()
    others_refused(1)
    swarm.share()
    others_refused(2)
    swarm.list()
    others_refused(3)
    swarm.mask()
    others_refused(4)
    swarm.state()
    others_refused(5)
    swarm.unmask()
    others_refused(6)
    assert client.phase is Phase.DONE


@pytest.mark.claim("C-secagg-15")
def test_a_session_is_taken_part_in_once_also_over_a_restart(make_swarm: Make) -> None:
    swarm = make_swarm(5).run()
    again = Client(swarm.session, swarm.node(0), swarm.boards[0], swarm.histories[0])
    refused(Reason.SID_REUSE, again.advertise)


def test_sharing_waits_for_holders_or_does_with_enough(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise([0, 1, 2])
    assert not swarm.clients[0].can_share
    refused(Reason.BELOW_THRESHOLD, swarm.clients[0].share)
    swarm.advertise([3])
    assert not swarm.clients[0].can_share
    swarm.share([0])
    swarm.advertise([4, 5])
    assert swarm.clients[1].can_share


@pytest.mark.parametrize(
    ("vector", "code"),
    [
        (np.zeros(20, np.int64), "QRES-E503"),
        (np.zeros(20, np.float64), "QRES-E503"),
        (np.zeros(19, np.int32), "QRES-E502"),
        (np.zeros((20, 1), np.int32), "QRES-E502"),
        (np.full(20, 2**20 + 1, np.int32), "QRES-E507"),
        (np.full(20, -(2**20) - 1, np.int32), "QRES-E507"),
        (np.full(20, -(2**31), np.int32), "QRES-E507"),
    ],
)
def test_inputs_outside_the_agreement_are_refused(
    make_swarm: Make, vector: np.ndarray, code: str
) -> None:
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share()
    swarm.list()
    with pytest.raises(ValueRefusedError) as caught:
        swarm.clients[0].mask(vector)
    assert caught.value.code == code
    swarm.mask()  # the refusal used nothing up


def test_noise_may_go_beyond_the_bound(make_swarm: Make) -> None:
    swarm = make_swarm(5, noise=100)
    swarm.advertise()
    swarm.share()
    swarm.list()
    with pytest.raises(ValueRefusedError):
        swarm.clients[0].mask(np.full(20, 2**20 + 101, np.int32))
    swarm.clients[0].mask(np.full(20, -(2**20) - 100, np.int32))


def test_the_input_is_left_alone(make_swarm: Make) -> None:
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share()
    swarm.list()
    vector = np.arange(20, dtype=np.int32)
    masked = swarm.clients[0].mask(vector)
    assert np.array_equal(vector, np.arange(20))
    assert not masked.vector.flags.writeable


def test_nothing_is_opened_before_a_quorum_signed(make_swarm: Make) -> None:
    swarm = make_swarm(7, corrupt=1).until_masked()
    quorum = swarm.session.parameters.quorum(7)
    assert quorum == 5
    swarm.state(None, range(quorum - 1))
    assert not swarm.clients[0].can_unmask
    refused(Reason.NO_QUORUM, swarm.clients[0].unmask)
    swarm.send(3, {6: swarm.clients[6].state(swarm.digests(range(7)))})
    assert swarm.clients[0].can_unmask
    swarm.unmask([0])


def test_a_node_whose_input_is_late_still_helps(make_swarm: Make) -> None:
    swarm = make_swarm(5, t=4).until_masked()
    swarm.state([0, 1, 2, 3])
    swarm.unmask([1, 2, 3, 4])
    (found,) = swarm.sums()
    assert np.array_equal(found.total, swarm.plain(found.members))
    assert swarm.node(4) not in found.members


def test_secrets_are_dropped_when_they_are_used_up(make_swarm: Make) -> None:
    swarm = make_swarm(5).run()
    left = vars(swarm.clients[0])
    assert left["_mask"] is left["_channel"] is None
    assert not left["_seed"]
    assert left["_held"] == left["_channel_secrets"] == {}


def test_nothing_is_masked_among_too_few(make_swarm: Make) -> None:
    """In groups: the list holds enough of the swarm and too few of this node's group."""
    swarm = make_swarm(20, k=8, t=6, group_size=5)
    group = swarm.boards[0].topology.groups[0]
    absent = group[2:]
    present = [rank for rank in swarm.everybody if rank not in absent]
    swarm.advertise(present)
    swarm.share(present)
    swarm.list(leader=present[0])
    for rank in group[:2]:
        refused(
            Reason.BELOW_THRESHOLD, lambda r=rank: swarm.clients[r].mask(np.zeros(20, np.int32))
        )
    swarm.mask([rank for rank in present if rank not in group])
    swarm.state()
    swarm.unmask()
    assert {found.group for found in swarm.sums()} == {1, 2, 3}


def test_what_was_said_of_shares_is_not_said_again(make_swarm: Make) -> None:
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share()
    assert swarm.clients[0].acknowledge() == []


def test_nobody_skips_a_leader_whose_list_it_has(make_swarm: Make) -> None:
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share()
    assert swarm.clients[0].skip(1)
    swarm.boards[1].adopt(swarm.boards[1].compose())
    refused(Reason.OUT_OF_ORDER, lambda: swarm.clients[1].skip(1))


def test_a_list_of_other_messages_than_a_node_sent_is_not_its_own(make_swarm: Make) -> None:
    swarm = make_swarm(6)
    swarm.advertise()
    swarm.share()
    whole = decode_listing(swarm.boards[1].compose())[1].members
    others = {rank: hashes for rank, hashes in whole.items() if rank}
    body = encode_listing(swarm.session.sid, Listing(others))
    refused(Reason.NOT_LISTED, lambda: swarm.clients[0].adopt(body))
    swarm.clients[1].adopt(body)
    assert swarm.clients[1].phase is Phase.LISTED


def test_a_node_masks_among_just_enough(make_swarm: Make) -> None:
    swarm = make_swarm(20, k=8, t=6, group_size=5)
    least = swarm.session.parameters.min_survivors
    group = swarm.boards[0].topology.groups[0]
    present = [rank for rank in swarm.everybody if rank not in group[least:]]
    swarm.advertise(present)
    swarm.share(present)
    swarm.list(leader=present[0])
    for rank in group[:least]:
        swarm.clients[rank].mask(np.zeros(20, np.int32))


def test_a_node_waits_for_who_has_not_dealt_and_judges_those_that_have(
    make_swarm: Make,
) -> None:
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share(range(4))
    assert not swarm.clients[0].can_ack
    assert not swarm.clients[0].has_judged
    swarm.share([4])
    assert swarm.clients[0].can_ack
    swarm.acknowledge([0])
    assert swarm.clients[0].has_judged


def test_only_the_own_input_gets_another_name(make_swarm: Make) -> None:
    swarm = make_swarm(5).until_masked()
    client, own = swarm.clients[0], swarm.digests(range(5))
    client.goes_by(swarm.masked[0].digest, b"y" * 32)
    client.goes_by(b"x" * 32, b"n" * 32)
    refused(Reason.OWN_INPUT, lambda: client.state(own))
    client.state({**own, swarm.node(0): b"y" * 32})


def test_who_skipped_the_leader_of_a_list_states_nothing_under_it(make_swarm: Make) -> None:
    swarm = make_swarm(5)
    swarm.advertise()
    swarm.share()
    client = swarm.clients[0]
    assert not client.can_state
    assert not swarm.clients[1].can_state
    client.skip(1)
    swarm.list()
    swarm.mask()
    assert not client.can_state
    assert swarm.clients[1].can_state
    refused(Reason.OUT_OF_ORDER, lambda: client.state(swarm.digests(range(5))))
    swarm.state(speakers=range(1, 5))
    assert not swarm.clients[1].can_state
    assert swarm.clients[1].can_unmask
    # A quorum stated a set, and this node did not: it opens nothing.
    assert swarm.boards[0].statements >= swarm.boards[0].quorum
    assert not client.can_unmask
