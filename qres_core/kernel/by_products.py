"""Inner products for wrappers and the rule where each range of coordinates is merged alone.

A plugin that claims to be ``by_products`` needs the inner products of the whole updates that it is
given. Those of the updates as they came are known once committees multiplied their ranges. A
wrapper rounds what it hands on to the grid, so the products of its rows do not follow from them:
committees apply the wrapper to their ranges, and multiply again. So there is one sum of products
for each such plugin, from the outermost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import attrs
from numpy.typing import NDArray

from qres_core.contract.errors import HookError
from qres_core.contract.types import Updates, Vector
from qres_core.kernel.guard import PassingError

Products: TypeAlias = Sequence[NDArray[Any]]
"""Inner products of whole updates as the first plugins get them that are ``by_products``."""


class ReachedError(PassingError):
    """The rows got to a plugin for which there are no products yet.

    No plugin may take it for an error of its own, hence the base class.
    """

    def __init__(self, updates: Updates) -> None:
        super().__init__("no inner products yet")
        self.updates = updates


@attrs.define
class ProductSeats:
    """Gives each plugin of one merge the inner products of what it gets.

    Attributes:
        seats: names of the hooks that are ``by_products``, from the outermost.
        known: the products, for as many of them as there are any.
    """

    seats: Sequence[str]
    known: Products
    _met: set[str] = attrs.field(factory=set[str], init=False)

    def before(self, seat: str, step: Callable[[Updates], Vector]) -> Callable[[Updates], Vector]:
        """The step of the hook named, given its products.

        It raises ReachedError where there are none yet, and HookError: QRES-E702 where a wrapper
        comes to it twice: with other rows, for all that is known here.
        """

        def given(updates: Updates) -> Vector:
            if seat not in self.seats:
                return step(attrs.evolve(updates, products=None))
            if seat in self._met:
                raise not_once(seat)
            self._met.add(seat)
            place = self.seats.index(seat)
            if place >= len(self.known):
                raise ReachedError(updates)
            return step(attrs.evolve(updates, products=self.known[place]))

        return given


def not_once(seat: str) -> HookError:
    """Error if wrappers come to the hook named more often than once, or never."""
    what = "expected wrappers that claim to need no whole updates to call proceed once"
    return HookError.of("QRES-E702", seat, what)
