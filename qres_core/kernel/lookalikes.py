"""Public attributes of a plugin that nobody reads, and whose names say that somebody should.

``need = Needs(...)`` beside the claims, or ``def agregate(...)`` without a mark, would be a promise
that nobody compares, and a defence that never runs.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partialmethod
from types import MappingProxyType
from typing import Any, Final, cast

import attrs

from qres_core.contract.abilities import ABILITIES
from qres_core.contract.claims import Claims, Hides, Needs, Privatizes, Reads, Verifies, Wraps
from qres_core.contract.errors import Problem
from qres_core.contract.hookspecs import PROJECT
from qres_core.kernel.slots import ALL_HOOKS

_PARTS: Final = (Claims, Needs, Hides, Wraps, Privatizes, Verifies)
_WITHIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        **{field.name: f"{field.name}=..." for field in attrs.fields(Claims)},
        **{
            field.name: f"{name}={kind.__name__}({field.name}=...)"
            for name, kind in (("wraps", Wraps), ("privatizes", Privatizes), ("verifies", Verifies))
            for field in attrs.fields(kind)
        },
        "coordinatewise": f"reads={Reads.COORDINATES}",
        "by_products": f"reads={Reads.PRODUCTS}",
        "looks": f"reads={Reads.NOTHING}",
    }
)
"""By a name that speaks of claims, how claims say it; three are of old plugins."""
_FIELDS: Final = tuple(_WITHIN)
_OTHER_WORDS: Final = frozenset(
    ("bound", "merge", "privatized", "read", "verified", "weight", "weights", "wrap")
)
"""Names that are near to a claim and mean something else on their own; a claim that is missing for
them is the careful one, or is refused by the solver."""
_NEAR: Final = 0.8
"""As :func:`difflib.get_close_matches` counts: one wrong letter of five, or one of ten missing."""
_LONGER: Final = 2
"""Letters that a misspelling has more or less; ``authenticate_many`` is another word."""


def lookalikes(plugin: type[object], where: str) -> Iterator[Problem]:
    """Refusals of a plugin's names.

    Options, which are attrs fields that ``__init__`` takes, may resemble a name; they may only not
    have the name of a claim. Names that begin with an underscore are the plugin's own. ``where``:
    the path of its table, for the messages. Yields QRES-E211 for every attribute that has the name
    of a hook or a claim and is none, or one so near to it that it must be a misspelling; and for
    one that holds a part of claims.
    """
    fields = {field.name: field for field in attrs.fields(cast("Any", plugin))}
    names = dict.fromkeys((*fields, *(name for kind in plugin.__mro__[:-1] for name in vars(kind))))
    for name in names:
        if name.startswith("_"):
            continue
        field = fields.get(name)
        option = field is not None and field.init
        value = field.default if field is not None else inspect.getattr_static(plugin, name)
        problem = _judge(name, value, option=option)
        if problem is not None:
            what, fix = problem
            yield Problem("QRES-E211", where, f"{name!r} {what}", fix)


def strays(plugin: object, where: str) -> Iterator[Problem]:
    """Refusals of a configured plugin, beside the names of its class.

    ``where``: the path of its table, for the messages. Yields QRES-E211 for every attribute that
    holds a part of claims, and for every public one that was added to the instance under a misspelt
    name.
    """
    fields = {field.name: field for field in attrs.fields(cast("Any", type(plugin)))}
    for name in dict.fromkeys((*fields, *getattr(plugin, "__dict__", ()))):
        value = getattr(plugin, name, None)  # a field without a default may be unset
        option = name in fields and fields[name].init
        if option and (name.lstrip("_") == "claims" or isinstance(value, _PARTS)):
            problem: tuple[str, str] | None = _OPTION
        elif name.startswith("_"):
            continue
        elif name in fields or hasattr(type(plugin), name):
            problem = None if name == "claims" else _astray(value)
        else:
            problem = _judge(name, value, option=False)
        if problem is not None:
            what, fix = problem
            yield Problem("QRES-E211", where, f"{name!r} {what}", fix)


_OPTION: Final = (
    "is an option: a configuration could claim anything",
    'make it a property, or write "claims = Claims(...)" without a type',
)


def _inner(value: object) -> object:
    """The function inside a descriptor, such as a property or a static method."""
    for attribute in ("__func__", "fget", "func"):
        found = getattr(value, attribute, None)
        if callable(found):
            return found
    return value


def _is_called(value: Any) -> bool:
    """True if it is as good as a method: a cached function, or an object that can be called."""
    if isinstance(value, (type, property, cached_property)):
        return False
    return callable(value) or isinstance(value, partialmethod)


def _judge(name: str, value: object, *, option: bool) -> tuple[str, str] | None:
    """Fault of a name, and the remedy; ``None`` for no fault."""
    plain = inspect.isfunction(getattr(value, "__func__", value))
    method = plain or _is_called(value)
    if any(hasattr(each, f"{PROJECT}_impl") for each in (value, _inner(value))):
        what = "is marked @hookimpl and is no plain method, so it would never run"
        return None if plain else (what, "define it with def, marked @hookimpl")
    if name in ABILITIES:
        what = "is the name of a method that the kernel or the suite calls, and it is none"
        return None if method else (what, "give it another name")
    if name == "claims":
        return _OPTION if option else None
    if name in _FIELDS:
        other = "; an option needs another name" if option else ""
        fix = f"write claims = Claims({_WITHIN[name]}){other}; see docs/how-to/migrate-a-plugin.md"
        return "is read only as a part of 'claims'", fix
    return _astray(value) if option else _unread(name, value, method=method)


def _unread(name: str, value: object, *, method: bool) -> tuple[str, str] | None:
    """Find a name that looks like a hook or a part of claims, and is no option."""
    if method and name in ALL_HOOKS:
        return "is the name of a hook, and it is not marked", "mark it @hookimpl, or rename it"
    if isinstance(value, type):  # a class inside the plugin's
        return None
    return _misspelt(name, method=method) or _astray(value)


def _astray(value: object) -> tuple[str, str] | None:
    """A part of claims under whatever name, such as ``requires = Needs(...)``."""
    if not isinstance(value, _PARTS):
        return None
    what = f"holds {type(value).__name__}(...), and is read by nobody"
    return what, "put it into claims = Claims(...), or begin the name with _"


def _misspelt(name: str, *, method: bool) -> tuple[str, str] | None:
    known = (*ALL_HOOKS, *ABILITIES, "claims", "needs", "hides") if method else ("claims", *_FIELDS)
    meant = None if name in _OTHER_WORDS else nearest(name, known)
    if meant is None:
        return None
    fix = f"did you mean {meant!r}?"
    if meant in _FIELDS:
        fix += f" Write claims = Claims({_WITHIN[meant]})."
    return "is read by nobody", f"{fix} If it is the plugin's own, rename it or begin it with _"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name of which ``name`` must be a misspelling; ``None`` where there is none.

    Names that are near begin with the same letter and are about as long; case and underscores do
    not count.
    """
    plain = _plain(name)
    words = {_plain(word): word for word in known}
    alike = [
        word for word in words if word[0] == plain[:1] and abs(len(word) - len(plain)) <= _LONGER
    ]
    close = difflib.get_close_matches(plain, alike, 1, _NEAR)
    return words[close[0]] if close else None


def _plain(name: str) -> str:
    return name.lower().replace("_", "")
