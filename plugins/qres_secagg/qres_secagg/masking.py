"""An update as it leaves the node."""

from __future__ import annotations

import attrs

from qres_core import Companion, Update
from qres_core.errors import ValueRefusedError
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.masks import Residues
from qres_secagg.ring import NAME, outgoing, weighted


def masked(update: Update, dialogue: SecaggDialogue, *, weight: int, bound: int) -> Update:
    """The update under the masks of a session.

    Args:
        update: int32 vector of shape ``(d,)``, companions; its weight does not matter.
        dialogue: of the session.
        weight: what vector and residues are multiplied by before, at least 1.
        bound: largest coordinate before the weight, raw units.

    Returns:
        the masked update of that weight: every coordinate and residue is uniform to whoever lacks
        the masks. Companions that are no residues are as they were.

    Raises:
        ValueRefusedError: QRES-E507 for a coordinate beyond the bound, or a companion under this
            plugin's name.
        SecaggError: QRES-E604, see :meth:`SecaggDialogue.mask`.

    Complexity: O(d k) for ``k`` peers in the group.
    """
    if NAME in update.companions:
        raise ValueRefusedError.of("QRES-E507", "secagg", f"a companion named {NAME!r}")
    values = weighted(update.vector, weight, dialogue.session.parameters, bound)
    beside = {
        # Weighted as the vector is: a check of the sum compares the two.
        name: Residues(
            tuple(weight * value % companion.modulus for value in companion.residues()),
            companion.modulus,
        )
        for name, companion in update.companions.items()
        if companion.modulus
    }
    hidden = dialogue.mask(values, beside)
    vector, beside_it = outgoing(hidden.vector, dialogue.board.list_hash)
    companions: dict[str, Companion] = {**update.companions, NAME: beside_it}
    for name, residues in hidden.residues.items():
        companions[name] = Companion.of(residues.values, residues.modulus)
    return attrs.evolve(update, vector=vector, weight=weight, companions=companions)
