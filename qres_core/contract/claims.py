"""Claims of a plugin: the facts that the solver compares before anything starts.

A plugin states them as one value, ``claims``: a plain attribute of its attrs class, or a property
where they depend on its options::

    @attrs.frozen
    class Median:
        f: int = 1

        @property
        def claims(self) -> Claims:
            needs = Needs(visibility=Visibility.GROUP, min_updates=2 * self.f + 1)
            return Claims(tolerates=self.f, needs=needs)

A plugin with a hook of :data:`CLAIMED_HOOKS` must have it. One without these hooks may have it;
without it, it claims what ``Claims(tolerates=None)`` does.

Methods may stand beside it, for what only numbers of the whole configuration or the node tell: see
:class:`qres_core.contract.abilities.Abilities`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import attrs

from qres_core.contract.errors import PluginError
from qres_core.contract.record_clip import RecordClip
from qres_core.contract.types import Visibility

CLAIMED_HOOKS: Final = frozenset(
    ("aggregate", "wrap_aggregate", "privatize", "reveal", "prove", "verify")
)
"""A plugin with one of these hooks is refused without ``claims``: rules, wrappers, privatizers and
provers. What they leave unsaid would be taken for a promise."""

_Validator = Callable[[object, Any, Any], None]


def _exactly(kind: type, least: Any = None, *, or_none: bool = False) -> _Validator:
    """A validator: a value of just this type, and not below ``least``; or ``None``."""

    def check(instance: object, attribute: Any, value: Any) -> None:
        if value is None and or_none:
            return
        if type(value) is kind and (least is None or value >= least):
            return
        bound = "" if least is None else f", {least} or more"
        fix = f"it must be of the type {kind.__name__}{bound}{', or None' if or_none else ''}"
        name = type(instance).__name__
        where = f"{name.lower()}.{attribute.name}"
        raise PluginError.of("QRES-E210", where, f"{value!r} is not allowed there", fix)

    return check


def _words(instance: object, attribute: Any, value: Any) -> None:
    words = cast("tuple[object, ...]", value) if type(value) is tuple else None
    if words is None or any(type(word) is not str for word in words):
        where = f"{type(instance).__name__.lower()}.{attribute.name}"
        what = f"{value!r} is no tuple of texts"
        raise PluginError.of("QRES-E210", where, what, 'write ("a text",), with the comma')


def _mapping(_instance: object, _attribute: Any, value: Any) -> None:
    if not isinstance(value, Mapping):
        what = f"{value!r} is no mapping"
        raise PluginError.of("QRES-E210", "claims.effective", what, 'write {"option": value}')


_YES_OR_NO: Final = _exactly(bool)


@attrs.frozen
class Needs:
    """Conditions of the plugin's guarantee.

    Attributes:
        visibility: least visibility of contributions the plugin can work with.
        min_updates: fewest updates it accepts in a round, for example ``2 f + 3`` for Krum.
        families: hook families some other enabled plugin must fill, for example
            ``("authenticate",)``.
        equal_weights: true if unequal weights would void the guarantee.
        at_most: most visibility of contributions that the guarantee allows: ``SUM`` or ``GROUP``
            if single updates must be hidden.
        averaging: true if the guarantee holds only for a rule that averages, and averages all the
            updates as the plugin left them.
        folder: true if the plugin keeps what must outlive the process. A real node without
            ``node.data_dir`` is then refused (QRES-E103); a simulation keeps it in memory.
        outcomes: true if the plugin must hear what became of this node's own contributions.
            Where nobody tells it, as inside another framework, it is refused (QRES-E322).
        records: what one example may add to a node's update, where the guarantee is one for single
            examples. The kernel then takes sums of clipped steps from the trainer, and refuses one
            that is no ``RecordTrainer``.

    Raises:
        PluginError: QRES-E210 for a value of another type, or a size below 1.
    """

    visibility: Visibility = attrs.field(default=Visibility.SUM, validator=_exactly(Visibility))
    min_updates: int = attrs.field(default=1, validator=_exactly(int, 1))
    families: tuple[str, ...] = attrs.field(default=(), validator=_words)
    equal_weights: bool = attrs.field(default=False, validator=_YES_OR_NO)
    at_most: Visibility = attrs.field(default=Visibility.INDIVIDUAL, validator=_exactly(Visibility))
    averaging: bool = attrs.field(default=False, validator=_YES_OR_NO)
    folder: bool = attrs.field(default=False, validator=_YES_OR_NO)
    outcomes: bool = attrs.field(default=False, validator=_YES_OR_NO)
    records: RecordClip | None = attrs.field(
        default=None, validator=_exactly(RecordClip, or_none=True)
    )


@attrs.frozen
class Hides:
    """Things that a ``privatize`` plugin takes away from everything after it.

    Attributes:
        leaves: what stays visible of contributions once it ran.
        group_size: with ``GROUP``, how many nodes a group has at least; rules see one row a group.
            ``None`` where no number of groups is sure: all nodes may be one.
        smallest: with ``GROUP``, the fewest updates of a group whose sum is still revealed;
            ``None`` if that is ``group_size``.
        colluding: share of the nodes that the plugin takes for colluding against what it hides; the
            swarm's liars do in any case.

    Raises:
        PluginError: QRES-E210 for a value of another type, or a size below 1.
    """

    leaves: Visibility = attrs.field(default=Visibility.INDIVIDUAL, validator=_exactly(Visibility))
    group_size: int | None = attrs.field(default=1, validator=_exactly(int, 1, or_none=True))
    smallest: int | None = attrs.field(default=None, validator=_exactly(int, 1, or_none=True))
    colluding: float = attrs.field(default=0.0, validator=_exactly(float, 0.0))


def most_colluders(nodes: int, byzantine: int, share: float) -> int:
    """Most of so many nodes that may collude against what is hidden; all plugins count alike.

    Args:
        nodes: members of the swarm.
        byzantine: liars among them; they collude in any case.
        share: ``Hides.colluding`` of the plugin that hides, 0 where none does.

    The share counts as it is written: in doubles, 0.29 of 100 would be 28.

    Example:
        >>> most_colluders(60, 0, 0.3), most_colluders(60, 20, 0.3)
        (18, 20)
    """
    from fractions import Fraction  # noqa: PLC0415 - takes time to import

    return max(byzantine, int(Fraction(repr(float(share))) * nodes))


class Reads(enum.Enum):
    """Parts of single updates that a plugin looks at.

    A shard of a round has a range of coordinates of every update. So the less a plugin reads, the
    more it can do where no node has whole updates.
    """

    WHOLE = "whole"
    """Whole updates, of which nothing else is known."""
    PRODUCTS = "products"
    """Inner products of whole updates, and each coordinate by itself beside them.

    Given ``Updates.products``, the rule or wrapper chooses and weighs by these, and is as with
    :attr:`COORDINATES` else. ``Updates.inner_products()`` gives them, or computes them where
    updates are whole.
    """
    COORDINATES = "coordinates"
    """Each coordinate by itself.

    A coordinate of the rule's result depends on that coordinate of the updates, on their weights,
    senders and number, and on nothing else: not on other coordinates, nor on the dimension. A range
    of coordinates can then be merged alone, and gives that range of the result, bit for bit. A
    wrapper claims the same of what it hands to ``proceed``, which it calls once, and of what it
    makes of the result.
    """
    NOTHING = "nothing"
    """No vector of a single contribution.

    ``verify`` judges by sender, weight, proofs and companions, and ``reveal`` by these and by rows
    that a plugin that hides has revealed. ``wrap_aggregate`` gives ``proceed`` the very updates
    that it got, and works on what comes back.
    """

    @property
    def in_shards(self) -> bool:
        """True if a rule or wrapper can merge ranges of coordinates, maybe with products."""
        return self in _IN_SHARDS


_IN_SHARDS: Final = (Reads.COORDINATES, Reads.PRODUCTS)


@attrs.frozen(kw_only=True)
class Wraps:
    """Claims of a ``wrap_aggregate`` plugin.

    Attributes:
        alters: it changes what the rule gets, or what it returns.
        merges: it makes one row of so many.

    Raises:
        PluginError: QRES-E210 for a value of another type, or a number below 1.
    """

    alters: bool = attrs.field(default=True, validator=_YES_OR_NO)
    merges: int = attrs.field(default=1, validator=_exactly(int, 1))


@attrs.frozen(kw_only=True)
class Privatizes:
    """Claims of a plugin with ``privatize`` or ``reveal`` about single updates.

    Attributes:
        accompanies: ``privatize`` puts a companion beside the update.
        keeps: ``privatize`` changes no update that noise was added to before. Shares of noise add
            up in a sum of updates, and not in a sum of what somebody made of each.
        reveals: ``reveal`` changes updates that no plugin hides.

    Raises:
        PluginError: QRES-E210 for a value of another type.
    """

    accompanies: bool = attrs.field(default=False, validator=_YES_OR_NO)
    keeps: bool = attrs.field(default=False, validator=_YES_OR_NO)
    reveals: bool = attrs.field(default=True, validator=_YES_OR_NO)


@attrs.frozen(kw_only=True)
class Verifies:
    """Claims of a ``verify`` plugin.

    Attributes:
        bounds: by how much the proof bounds the length of every update, in a few words; empty where
            it does not.
        transferable: it judges by the contribution, the round and the configuration, so that every
            honest node comes to the same verdict.

    Raises:
        PluginError: QRES-E210 for a value of another type.
    """

    bounds: str = attrs.field(default="", validator=_exactly(str))
    transferable: bool = attrs.field(default=False, validator=_YES_OR_NO)


@attrs.frozen(kw_only=True)
class Claims:
    """Statements of a plugin about itself. If it leaves one out, the careful value is assumed.

    The first six are for every plugin, and all that an aggregation rule says.

    Attributes:
        tolerates: liars among the updates that the plugin withstands; 0 for none. ``None`` promises
            nothing: the solver then compares it with nothing, and the conformance suites ask
            nothing about liars. There is no default, so that nobody promises nothing by accident.
        needs: what must hold for its guarantee.
        reads: what of single updates it looks at.
        averages: the rule is a weighted mean of its rows.
        notices: sentences that an operator should read, for example that an option weakens it.
        wraps: what a ``wrap_aggregate`` plugin does.
        hides: what a ``privatize`` plugin takes away from everything after it.
        privatizes: what a plugin with ``privatize`` or ``reveal`` does with single updates.
        verifies: what a ``verify`` plugin makes sure of.
        weighs: the reputation scales weights, beside banning.
        effective: what options come to that follow from others, by name of the option: a site
            policy's bounds are held against these values.

    Raises:
        PluginError: QRES-E210 for a value of another type, or a number that is too small.
    """

    tolerates: int | None = attrs.field(validator=_exactly(int, 0, or_none=True))
    needs: Needs = attrs.field(default=Needs(), validator=_exactly(Needs))
    reads: Reads = attrs.field(default=Reads.WHOLE, validator=_exactly(Reads))
    averages: bool = attrs.field(default=False, validator=_YES_OR_NO)
    notices: tuple[str, ...] = attrs.field(default=(), validator=_words)
    wraps: Wraps = attrs.field(default=Wraps(), validator=_exactly(Wraps))
    hides: Hides = attrs.field(default=Hides(), validator=_exactly(Hides))
    privatizes: Privatizes = attrs.field(default=Privatizes(), validator=_exactly(Privatizes))
    verifies: Verifies = attrs.field(default=Verifies(), validator=_exactly(Verifies))
    weighs: bool = attrs.field(default=True, validator=_YES_OR_NO)
    effective: Mapping[str, object] = attrs.field(
        factory=dict[str, object], validator=_mapping, hash=False
    )

    @property
    def liars(self) -> int:
        """Liars that it withstands; 0 where it promises nothing."""
        return self.tolerates or 0


NO_CLAIMS: Final = Claims(tolerates=None)


@attrs.frozen(kw_only=True)
class Extent:
    """Size that an update can have at a place in the chain of ``privatize`` plugins.

    Attributes:
        length: greatest L2 norm, noise left aside, in the model's own units; infinite where
            nothing bounds it.
        clipped_by: the plugin that bounds it; empty for none.
        accepted: greatest L2 norm of what a liar can send and get accepted, in the same units.
        noise: standard deviation of the noise in every coordinate, in the model's own units.
        noised_by: the plugin that adds it; empty for none.
    """

    length: float = math.inf
    clipped_by: str = ""
    accepted: float = math.inf
    noise: float = 0.0
    noised_by: str = ""


@attrs.frozen(kw_only=True)
class Surroundings:
    """Facts that a plugin is told of the configuration it is part of.

    Attributes:
        nodes: number of nodes.
        byzantine: liars among them that the swarm promises to withstand.
        quorum: fewest contributions of a round.
        scale: exponent of the grid; a step is ``2**(scale - 16)``.
        weight_cap: largest weight that counts.
        deadline: seconds until a set is proposed.
        max_message_bytes: largest message that is sent or taken.
        authority: who may change the members: ``"members"`` or ``"ca"``.
        roster: identities of the nodes, hexadecimal; empty where they are not known yet.
        dimension: coordinates of the model; 0 where they are not known yet.
        until: the goal that stops the swarm, as nodes say from their own figures; empty for none.
        hooks: hooks that the other plugins implement.
        visibility: what is visible of contributions in the end.
        hidden_by: the plugin that hides the rest; empty for none.
        members: fewest updates that a revealed row holds: 1 where nothing is hidden.
        colluders: most nodes that may collude against what is hidden: ``byzantine``, or more where
            the plugin that hides takes more for it.
        rows: fewest rows that the rule and the wrappers around it work with.
        extent: how large an update is when it gets to the plugin.
        before: names of the ``privatize`` plugins before this one, in file order.
        after: names of those after it, without the one that hides.
        changing: of ``after``, those that may change an update that has noise.
        companions: of ``before``, those that put something beside the update.
        altered_by: names of the wrappers before this plugin that change what it sees as a wrapper;
            for the rule, of all wrappers that change what it gets or what it returns.
        judges: names of the other plugins that judge before the vote what would be merged.
    """

    nodes: int
    byzantine: int
    quorum: int
    scale: int = 0
    weight_cap: int = 1
    deadline: float = 30.0
    max_message_bytes: int = 64 * 2**20
    authority: str = "members"
    roster: tuple[str, ...] = ()
    dimension: int = 0
    until: str = ""
    hooks: frozenset[str] = frozenset()
    visibility: Visibility = Visibility.INDIVIDUAL
    hidden_by: str = ""
    members: int = 1
    colluders: int = attrs.field(
        default=attrs.Factory(lambda self: self.byzantine, takes_self=True)
    )
    rows: int = 1
    extent: Extent = Extent()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    changing: tuple[str, ...] = ()
    companions: tuple[str, ...] = ()
    altered_by: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
