"""Calls of a node's plugins: a hook at a time, and each answer is looked at.

No other part of QRES calls a hook. What a hook returns has a line in :data:`ANSWERS`. An answer
that is something else, or an exception, is an error that names the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar, cast

import numpy as np

from qres_core.contract.dialogue import Dialogue
from qres_core.contract.errors import HookError, QresError
from qres_core.contract.evidence import Accusation
from qres_core.contract.held_out import Screening
from qres_core.contract.transport import LinkKeys, Transport
from qres_core.contract.types import NODE_ID_BYTES, Update
from qres_core.contract.wire import MAX_AUTHENTICATOR, MAX_KEYS
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.guard import guarded
from qres_core.kernel.slots import ALL_HOOKS

T = TypeVar("T")
Caller = Callable[..., list[Any]]
"""What calls a hook of one plugin, by name of the arguments; an empty list for no answer."""
_Fits = Callable[[Any, Mapping[str, Any]], bool]


def _octets(most: int) -> _Fits:
    return lambda answer, _asked: type(answer) is bytes and len(answer) <= most


def _made(answer: Any, kind: type) -> bool:
    """True if it is an object of the kind; a class has the same methods, and is none."""
    return isinstance(answer, kind) and not isinstance(answer, type)


def _is_revealable(answer: Any, asked: Mapping[str, Any]) -> bool:
    senders = {item.sender for item in asked["contributions"]}
    return type(answer) is tuple and senders.issuperset(cast("tuple[object, ...]", answer))


def _is_screening(answer: Any, asked: Mapping[str, Any]) -> bool:
    senders = set(asked["updates"].senders)
    return (
        type(answer) is Screening
        and all(type(it) is Accusation and it.subject in senders for it in answer.against)
        and senders.issuperset(answer.shares)
    )


def _is_sums(answer: Any, asked: Mapping[str, Any]) -> bool:
    found = getattr(answer, "dtype", None), getattr(answer, "shape", (0,))[1:]
    return found == (np.int64, (asked["updates"].dimension,))


_SHORT: Final = f"at most {MAX_AUTHENTICATOR} bytes", _octets(MAX_AUTHENTICATOR)
ANSWERS: Final[Mapping[str, tuple[str, _Fits]]] = {
    "identity": (
        f"{NODE_ID_BYTES} bytes",
        lambda it, _: type(it) is bytes and len(it) == NODE_ID_BYTES,
    ),
    "key_index": (
        f"an integer in 0..{MAX_KEYS - 1}",
        lambda it, _: type(it) is int and 0 <= it < MAX_KEYS,
    ),
    "link_keys": ("LinkKeys", lambda it, _: type(it) is LinkKeys),
    "credential": _SHORT,
    "sign": _SHORT,
    "status": ("a mapping", lambda it, _: isinstance(it, Mapping)),
    "transport": ("a Transport", lambda it, _: _made(it, Transport)),
    "round_opened": ("a Dialogue or None", lambda it, _: it is None or _made(it, Dialogue)),
    "privatize": (
        "an Update of the same dimension",
        lambda it, of: type(it) is Update and it.vector.size == of["round_info"].dimension,
    ),
    "prove": ("bytes", lambda it, _: type(it) is bytes),
    "revealable": ("a tuple of senders of the contributions", _is_revealable),
    "reveal_shard": ("sums of the shard, int64", _is_sums),
    "screen": ("a Screening of senders of the updates", _is_screening),
}
"""What a hook returns, in words, and whether an answer to these arguments is such.

``reveal``, ``aggregate`` and ``wrap_aggregate`` are looked at where they are called, verdicts in
:mod:`qres_core.kernel.intake`. The other hooks return nothing that is read.
"""


class Calls:
    """The hooks of one node's plugins.

    Attributes:
        by_hook: what calls each hook, with the plugin's name, in file order.
    """

    def __init__(self, enabled: Sequence[Enabled]) -> None:
        self.by_hook: Mapping[str, tuple[tuple[str, Caller], ...]] = {
            hook: tuple(
                (plugin.name, guarded(getattr(plugin.manager.hook, hook)))
                for plugin in enabled
                if hook in plugin.hooks
            )
            for hook in ALL_HOOKS
        }

    def has(self, hook: str) -> bool:
        """True if any enabled plugin implements the hook."""
        return bool(self.by_hook[hook])

    def names(self, hook: str) -> tuple[str, ...]:
        """Plugins that implement the hook, in file order."""
        return tuple(name for name, _caller in self.by_hook[hook])

    def one(self, name: str, hook: str, caller: Caller, **arguments: Any) -> Any:
        """The answer of one plugin; ``None`` if it gave none.

        Raises HookError: QRES-E701 if it raised, QRES-E702 if the answer is none of
        :data:`ANSWERS`. Raises QresError: what it refused.
        """
        expected, fits = ANSWERS.get(hook, ("", None))

        def ask() -> tuple[Any, bool]:
            results = caller(**arguments)
            answer = results[0] if results else None
            return answer, fits is None or fits(answer, arguments)  # which may run a plugin's code

        answer, is_such = in_name_of(name, hook, ask)
        if not is_such:
            raise wrong(name, hook, expected, answer)
        return answer

    def each(self, hook: str, **arguments: Any) -> Iterator[tuple[str, Any]]:
        """The answer of every plugin with its name, in file order; raises as :meth:`one`."""
        for name, caller in self.by_hook[hook]:
            yield name, self.one(name, hook, caller, **arguments)

    def all(self, hook: str, **arguments: Any) -> None:
        """Tell every plugin, in file order; raises as :meth:`one`."""
        for _answer in self.each(hook, **arguments):
            pass

    def first(self, hook: str, absent: T, **arguments: Any) -> T:
        """The answer of the first plugin that implements the hook; raises as :meth:`one`.

        ``absent``: the answer where none does.
        """
        answer: T = next((answer for _name, answer in self.each(hook, **arguments)), absent)
        return answer


def in_name_of(name: str, hook: str, call: Callable[[], T]) -> T:
    """Run code of a plugin. Raises HookError: QRES-E701 if it raises anything but a QresError."""
    try:
        return call()
    except QresError as error:
        error.add_note(f"in hook {hook!r} of plugin {name!r}")
        raise
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        raise HookError.of("QRES-E701", where(name, hook), what) from error


def where(name: str, hook: str) -> str:
    """The path of a plugin's hook, for messages."""
    return f"plugins.{name}.{hook}"


def wrong(name: str, hook: str, expected: str, got: object) -> HookError:
    """Error for an answer that is none."""
    what = f"expected {expected}, got {type(got).__name__}"
    return HookError.of("QRES-E702", where(name, hook), what)
