"""Noise that is correlated between rounds, so that it cancels in the sum of rounds.

Independent noise adds up: after T rounds the model holds T noises. A model is a sum of updates, so
what matters is the error of prefix sums, and noise that takes back part of what it added earlier
does better at the same privacy. How much it is allowed to depends on how often whoever is to be
protected takes part: see :mod:`qres_dp.correlated.factor`.

Two ways of it:

- In mode local a node knows its noise and takes it back itself. A :class:`Factor` and a variance
  from :func:`variance_for` make a :class:`CorrelatedNoise`; each round, ``draw`` with a key, and
  ``advance`` with what was drawn. The keys are kept in a :class:`KeyHistory`, from which a node
  that starts again has the same noise back.
- In mode distributed nobody knows the noise. A node encodes its own updates (:func:`encode`) and
  everybody decodes the sum (:func:`decode`). An :class:`EncodingMemory` keeps what both take.
"""

from qres_dp.correlated.encoding import decode, encode, grain_of, longest_reach, reach
from qres_dp.correlated.factor import Factor, Participation, variance_for
from qres_dp.correlated.history import KeyHistory
from qres_dp.correlated.memory import EncodingMemory, EncodingShape, ModelChange
from qres_dp.correlated.noise import CorrelatedNoise

__all__ = [
    "CorrelatedNoise",
    "EncodingMemory",
    "EncodingShape",
    "Factor",
    "KeyHistory",
    "ModelChange",
    "Participation",
    "decode",
    "encode",
    "grain_of",
    "longest_reach",
    "reach",
    "variance_for",
]
