"""What travels beside an update is what a plugin of the swarm claims to send."""

from __future__ import annotations

from typing import ClassVar

import attrs
import numpy as np
import pytest
from qres_lab.testing import make_round_info

from qres_core import ACCEPT, Claims, Companion, Update, Verdict, hookimpl
from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.claims import Privatizes
from qres_core.errors import HookError, WireError
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel

UPDATE, INFO = Update(np.array([1, 2], dtype=np.int32)), make_round_info(2)


@attrs.frozen
class Silent:
    """Sends a companion, and does not say so."""

    claims: ClassVar[Claims] = Claims(tolerates=None)

    @hookimpl
    def privatize(self, update: Update) -> Update:
        return attrs.evolve(update, companions={"tag": Companion(b"x")})


@attrs.frozen
class Saying(Silent):
    """Says that it does."""

    claims: ClassVar[Claims] = Claims(tolerates=None, privatizes=Privatizes(accompanies=True))


@attrs.frozen
class Proving:
    """Proves something."""

    claims: ClassVar[Claims] = Claims(tolerates=None)

    @hookimpl
    def prove(self) -> bytes:
        return b"proof"

    @hookimpl
    def verify(self) -> Verdict:
        return ACCEPT


def kernel(*plugins: object) -> Kernel:
    swarm = SwarmConfig(name="s", nodes=3, byzantine=0, quorum=3, insecure=True)
    named = {type(plugin).__name__.lower(): plugin for plugin in plugins}
    parts = {"memory": Memory(), **named, "mean": Mean(unprotected=True)}
    return Kernel([enable(plugin, name) for name, plugin in parts.items()], swarm)


def test_a_companion_that_no_plugin_claims_stays_at_home() -> None:
    assert kernel(Saying()).privatize(UPDATE, INFO).companions == {"tag": Companion(b"x")}
    with pytest.raises(HookError, match=r"QRES-E702 plugins\.silent\.privatize: puts a companion"):
        kernel(Silent()).privatize(UPDATE, INFO)


def test_only_what_plugins_send_is_taken_in() -> None:
    kernel().check_beside((), ())
    kernel(Proving(), Saying()).check_beside(["proving"], ["tag", "more"])
    for judge, proofs, companions, field in (
        (kernel(), ["proving"], [], "proofs"),
        (kernel(Proving()), ["proving", "mean"], [], "proofs"),
        (kernel(Proving()), [], ["proving"], "companions"),
    ):
        with pytest.raises(WireError, match=rf"QRES-E404 payload\.{field}: '.*' is there, and no"):
            judge.check_beside(proofs, companions)
