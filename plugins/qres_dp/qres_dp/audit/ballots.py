"""Votes on the clip: the noise of what leaves beside the updates."""

from __future__ import annotations

import math
from fractions import Fraction
from types import ModuleType
from typing import Final

import numpy as np

from qres_dp.audit import oracle
from qres_dp.audit.claim import Claim
from qres_dp.audit.finding import Finding
from qres_dp.audit.noise import LIMIT, alike
from qres_dp.audit.statistics import mean_score, scale_score, tail_score
from qres_dp.audit.system import System

UNIT: Final = 2**16
"""How far a node may move a sum of votes."""
ROUNDS: Final = 320


def needs(claim: Claim) -> list[tuple[float, float]]:
    """What the promise needs of update and vote together, and what the plan prints."""
    mechanism = claim.mechanism
    vector, votes = mechanism["vector_multiplier"], mechanism["votes_multiplier"]
    share = Fraction(mechanism["variance_of_vote_share"]) * claim.setting.honest
    return [
        (vector**-2.0 + votes**-2.0, claim.multiplier**-2.0),
        (float(oracle.least_variance(votes, UNIT)), float(share)),
    ]


def together(claim: Claim, square: int, votes: int) -> float:
    """What a release costs that moves the sum by so much, over what it is charged with.

    ``square``: of the distance of the sums of updates; ``votes``: distance of the sums of votes.
    """
    honest, least = claim.setting.honest, oracle.least_variance(0.0, 0)
    share = Fraction(claim.mechanism["variance_of_vote_share"])
    mu = square / (claim.share * honest - least) + votes * votes / (share * honest - least)
    return math.sqrt(mu) * claim.multiplier / (1.0 + 1e-9)


def examine(package: ModuleType, claim: Claim) -> Finding:
    """The largest score of size and mean, and of correlation with each other and with updates."""
    system, nothing = System(package, claim.setting), np.zeros(2, dtype=np.int32)
    rows: list[list[int]] = []
    beside: list[list[int]] = []
    for _ in range(ROUNDS):
        sent = system.release([nothing] * system.inputs)
        rows.append(system.ballots)
        beside.append([int(value) for value in sent[:, 0]])
    votes = np.array(rows, dtype=np.float64)
    votes /= float(Fraction(claim.mechanism["variance_of_vote_share"])) ** 0.5
    updates = np.array(beside, dtype=np.float64) / float(claim.share) ** 0.5
    every, summed = votes.ravel(), votes.sum(axis=1) / claim.setting.honest**0.5
    scores = [scale_score(every), scale_score(summed), mean_score(every)]
    scores += [tail_score(every, beyond) for beyond in (1.0, 2.0)]
    scores += [alike(every, updates.ravel()), alike(votes[1:].ravel(), votes[:-1].ravel())]
    scores += [alike(votes[:, 0], votes[:, 1])]
    return Finding("votes", claim.setting.name, max(scores), LIMIT)
