"""libp2p where fastecdsa is not installed.

libp2p imports fastecdsa for keys on the curve P-256, and uses it in its protocol secio alone. QRES
offers Noise and no other, and every node's key is Ed25519. fastecdsa 2.3.2, the release libp2p
demands, has no wheel for Linux and takes a C compiler, so a node must do without it.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Final, Never

from qres_core.errors import TransportError

_PARTS: Final = (
    "fastecdsa",
    "fastecdsa.curve",
    "fastecdsa.keys",
    "fastecdsa.point",
    "fastecdsa.encoding",
    "fastecdsa.encoding.sec1",
    "fastecdsa.encoding.util",
)


def _refuse(*_args: object, **_options: object) -> Never:
    """In place of whatever would make, read or use a key on P-256.

    Raises TransportError: QRES-E908.
    """
    what = "a key on the curve P-256 is asked for, and fastecdsa is not installed"
    raise TransportError.of("QRES-E908", "plugins.libp2p", what, "use an Ed25519 key")


class _FastecdsaStub(ModuleType):
    """A part of fastecdsa: every name of it that libp2p does not need to be imported is refused."""

    def __getattr__(self, name: str) -> Never:
        if name.startswith("__"):  # the import system asks for some, and takes no for an answer
            raise AttributeError(name)
        _refuse()


def _stand_ins() -> dict[str, ModuleType]:
    """The modules that libp2p imports, by full name, each an attribute of the one around it."""
    parts = {name: _FastecdsaStub(name) for name in _PARTS}
    for name, part in parts.items():
        around, _, own = name.rpartition(".")
        if around:
            setattr(parts[around], own, part)
        part.__path__ = []  # packages and modules alike
    # These names stand in annotations and assignments that run when libp2p is imported.
    parts["fastecdsa.curve"].__dict__["Curve"] = object
    parts["fastecdsa.point"].__dict__["Point"] = object
    parts["fastecdsa.encoding.sec1"].__dict__["SEC1Encoder"] = _FastecdsaStub("SEC1Encoder")
    parts["fastecdsa.encoding.util"].__dict__["int_bytelen"] = _refuse
    return dict(parts)


@contextmanager
def without_fastecdsa() -> Generator[None]:
    """Within it libp2p can be imported where fastecdsa is not installed.

    Where it is installed nothing is changed. The stand-ins are gone afterwards: nobody else in the
    process takes them for fastecdsa.
    """
    if "fastecdsa" in sys.modules or find_spec("fastecdsa") is not None:
        yield
        return
    parts = _stand_ins()
    sys.modules.update(parts)
    try:
        yield
    finally:
        for name in parts:
            sys.modules.pop(name, None)
