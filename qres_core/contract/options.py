"""Validators for the fields of a plugin: the values that options may have.

A field of a plugin's attrs class is a key of its table. The kernel refuses a value of another type
(QRES-E104); a validator refuses one that has no meaning, and names the key, what was found and what
is allowed (QRES-E105). Every validator holds for instances made in Python too, where nothing has
looked at the type before: ``True`` is no integer, NaN and infinity are no numbers, and scalars of
numpy are refused unless Python takes them for its own (float64), because what is computed from an
option may not depend on the width it came in.

Example:
    >>> import attrs
    >>> @attrs.frozen
    ... class Rule:
    ...     f: int = attrs.field(**liars("2 f + 1 updates"))
    ...     radius: float = attrs.field(default=1.0, validator=real(above=0, unit="grid steps"))
    ...     start: str = attrs.field(default="zero", validator=one_of("zero", "median"))
    >>> Rule(f=1).radius
    1.0
    >>> Rule(f=-1)
    Traceback (most recent call last):
    ...
    qres_core.contract.errors.OptionError: QRES-E105 f: must be an integer of at least 0, got -1
"""

from __future__ import annotations

import math
import re
import reprlib
import sys
from collections.abc import Callable
from typing import Any, Final, TypedDict, cast

import attrs

from qres_core.contract.errors import OptionError
from qres_core.contract.suggest import nearest

SHARING: Final = "sharing"
"""Key of a field's metadata: how far its value must be the same on all nodes."""
LOCAL: Final = "local"
"""Value of :data:`SHARING`: each node may have its own."""
PRESENCE: Final = "presence"
"""Value of :data:`SHARING`: all nodes have set it, or none has; what to may differ."""
CONTENT: Final = "content"
"""Value of :data:`SHARING`: the path of a file, which may differ; the file must not."""
READS: Final = "reads"
"""Key of metadata beside :data:`CONTENT`: a function that says what of the file must not differ."""
LIVE: Final = "live"
"""Key of a field's metadata, true where the plugin's method ``retune`` takes another value."""
_MOST_BITS: Final = 128
"""Integers of more bits are described and not written out."""


@attrs.frozen
class Option:
    """A validator of attrs for one field; :meth:`check` does the same for a value and its name.

    Attributes:
        allowed: what a value must be, as the message says it: ``an integer in 1..8``.
        fits: whether a value is that; may be given anything, and must not raise.
        secret: never repeat a refused value: it may be a passphrase in the wrong place.
        words: what to suggest from where a word was refused.
    """

    allowed: str
    fits: Callable[[object], bool]
    secret: bool = False
    words: tuple[str, ...] = ()

    def __call__(self, _instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        """Check a field; attrs calls this."""
        self.check(attribute.name, value)

    def check(self, name: str, value: object) -> None:
        """Check an argument of a function by the same measure.

        Args:
            name: of the argument or key.
            value: anything.

        Raises:
            OptionError: QRES-E105 with the name, what is allowed and what was found.

        Example:
            >>> whole(1).check("iterations", True)
            Traceback (most recent call last):
            ...
            qres_core.contract.errors.OptionError: QRES-E105 iterations: must be an integer of at \
least 1, got True
        """
        if self.fits(value):
            return
        found = "" if self.secret else f", got {_shown(value)}"
        fix = nearest(value, self.words) if isinstance(value, str) else ""
        raise OptionError.of("QRES-E105", name, f"must be {self.allowed}{found}", fix)


class Field(TypedDict):
    """Arguments of ``attrs.field``."""

    validator: Option
    metadata: dict[str, str]


def whole(low: int | None = None, high: int | None = None, *, unit: str = "") -> Option:
    """An integer from ``low`` to ``high``, both included.

    Args:
        low: the least; none if absent.
        high: the greatest; none if absent.
        unit: what it counts, for the message.
    """

    def fits(value: object) -> bool:
        # bool is an int to Python: `f = true` must not mean one liar.
        return type(value) is int and (
            (low is None or low <= value) and (high is None or value <= high)
        )

    return Option("an integer" + _limits(low, high, None, None) + _of(unit), fits)


def real(
    low: float | None = None,
    high: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    or_zero: bool = False,
    unit: str = "",
) -> Option:
    """A finite number, whole or not, that a float64 can hold.

    Args:
        low: the least.
        high: the greatest.
        above: the greatest number that is too small; in place of ``low``.
        below: the least number that is too large; in place of ``high``.
        or_zero: 0 is allowed too; for options where it means that they are not set.
        unit: for the message.

    Example:
        >>> real(0, below=1).allowed
        'a finite number of at least 0 and below 1'
    """

    def fits(value: object) -> bool:
        # float64 of numpy is a float to Python, and nothing is lost by it.
        if not isinstance(value, float) and type(value) is not int:
            return False
        if not abs(value) <= sys.float_info.max:  # NaN and integers beyond a float too
            return False
        return (or_zero and value == 0) or (
            (low is None or low <= value)
            and (high is None or value <= high)
            and (above is None or above < value)
            and (below is None or value < below)
        )

    closed = low is not None and high is not None
    said = ("a number" if closed else "a finite number") + _limits(low, high, above, below)
    return Option(said + (" or 0" if or_zero else "") + _of(unit), fits)


def one_of(*choices: str | int) -> Option:
    """One of some words or numbers, of the very same type; a word near to one is suggested.

    Example:
        >>> one_of("clock", "challenge").check("mode", "clok")
        Traceback (most recent call last):
        ...
        qres_core.contract.errors.OptionError: QRES-E105 mode: must be one of "clock", \
"challenge", got 'clok' (did you mean 'clock'?)
    """
    kinds = {(type(choice), choice) for choice in choices}

    def fits(value: object) -> bool:
        # Other types need not be hashable.
        return type(value) in (str, int) and (type(value), value) in kinds

    shown = ", ".join(
        f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices
    )
    words = tuple(choice for choice in choices if isinstance(choice, str) and choice)
    return Option(f"one of {shown}", fits, words=words)


def flag() -> Option:
    """True or false, and not 1 or 0."""
    return Option("true or false", lambda value: type(value) is bool)


def text(pattern: str = "(?s:.*)", allowed: str = "text", *, secret: bool = False) -> Option:
    """A string that a regular expression matches as a whole.

    Args:
        pattern: the regular expression.
        allowed: what that is, in words.
        secret: never repeat a refused value.

    Example:
        >>> text("[0-9a-f]{64}", "64 hex digits").check("pivot", "me")
        Traceback (most recent call last):
        ...
        qres_core.contract.errors.OptionError: QRES-E105 pivot: must be 64 hex digits, got 'me'
    """
    compiled = re.compile(pattern)

    def fits(value: object) -> bool:
        return type(value) is str and compiled.fullmatch(value) is not None

    return Option(allowed, fits, secret=secret)


def many(each: Option) -> Option:
    """A tuple, which TOML writes as an array, of values that another validator takes."""

    def fits(value: object) -> bool:
        return type(value) is tuple and all(
            each.fits(item) for item in cast("tuple[object, ...]", value)
        )

    return Option(f"an array, each entry {each.allowed}", fits, secret=each.secret)


def liars(needs: str = "", also: str = "") -> Field:
    """The option ``f`` of a rule: how many updates may be anything.

    Args:
        needs: what a round must have for that, for example ``"2 f + 1 updates"``.
        also: what else the number decides, right after the first clause.

    Returns:
        arguments of ``attrs.field``: ``f: int = attrs.field(**liars("2 f + 1 updates"))``. It has
        no default: how many liars there may be is for the author of the configuration to say.
    """
    said = f"Number of Byzantine updates of a round to withstand{also}."
    return {
        "validator": whole(0),
        "metadata": help_text(said + (f" Needs at least {needs}." if needs else "")),
    }


def help_text(words: str) -> dict[str, str]:
    """Metadata of a field: what the reference of all options says of it.

    The option is shared: all nodes of a swarm must have the same value. :func:`local` marks one
    that may differ.
    """
    return {"help": words}


def local(
    words: str, *, presence: bool = False, content: bool | Callable[[bytes], bytes] = False
) -> dict[str, Any]:
    """Metadata of an option that is each node's own business: a path, a key, a number of threads.

    Nothing that another node computes or checks may depend on it. An option whose validator is
    secret is local without the mark.

    Args:
        words: what the reference of all options says of it.
        presence: all nodes must set it, or none: the path of a file that changes what they check
            and that each may renew. An option counts as set if it is true to Python.
        content: the path of a file that has the same bytes on all nodes, because what they compute
            or check depends on them. Or a function: what it makes of the bytes must be the same,
            for example the key in a certificate. It raises ValueError for what it cannot read.

    Example:
        >>> local("Threads that expand masks.")
        {'help': 'Threads that expand masks.', 'sharing': 'local'}
    """
    sharing = CONTENT if content else PRESENCE if presence else LOCAL
    reads = {READS: content} if callable(content) else {}
    return {"help": words, SHARING: sharing, **reads}


def _limits(low: float | None, high: float | None, above: float | None, below: float | None) -> str:
    if low is not None and high is not None and above is None and below is None:
        return f" in {_number(low)}..{_number(high)}"
    parts = [
        f"{words} {_number(bound)}"
        for words, bound in (
            ("of at least", low),
            ("above", above),
            ("at most", high),
            ("below", below),
        )
        if bound is not None
    ]
    return " " + " and ".join(parts) if parts else ""


def _of(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _number(bound: float) -> str:
    """The number exactly, as short as that allows: a rounded bound might itself be refused."""
    if isinstance(bound, int):
        return str(bound)
    short = f"{bound:g}"
    if float(short) == bound:
        return short
    mantissa, exponent = math.frexp(bound)
    if abs(mantissa) == 0.5:
        return f"{'-' if bound < 0 else ''}2**{exponent - 1}"
    return str(int(bound)) if bound.is_integer() else repr(bound)


class _Shortened(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60

    def repr_int(self, x: int, level: int) -> str:
        del level
        # Python refuses to write integers of thousands of digits.
        bits = x.bit_length()
        return repr(x) if bits <= _MOST_BITS else f"an integer of {bits} bits"


_SHORTENED: Final = _Shortened()


def _shown(value: object) -> str:
    kind = type(value)
    if kind.__module__ == "builtins":
        return _SHORTENED.repr(value)
    return f"{_SHORTENED.repr(value)} of type {kind.__module__}.{kind.__qualname__}"
