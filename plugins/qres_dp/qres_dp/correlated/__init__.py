"""Noise that is correlated between rounds, so that it cancels in the sum of rounds.

Independent noise adds up: after T rounds the model holds T noises. A model is a sum of updates, so
what matters is the error of prefix sums, and noise that takes back part of what it added earlier
does better at the same privacy. How much it is allowed to depends on how often whoever is to be
protected takes part: see :mod:`qres_dp.correlated.factor`.

Nobody knows the noise of a sum. So a node encodes its own updates (:func:`encode`), and everybody
decodes the sum (:func:`decode`). An :class:`EncodingMemory` keeps what both take.
"""

from qres_dp.correlated.encoding import decode, encode, grain_of, longest_reach, reach
from qres_dp.correlated.factor import Factor, Participation
from qres_dp.correlated.memory import EncodingMemory, EncodingShape, ModelChange

__all__ = [
    "EncodingMemory",
    "EncodingShape",
    "Factor",
    "ModelChange",
    "Participation",
    "decode",
    "encode",
    "grain_of",
    "longest_reach",
    "reach",
]
