"""Verdicts that are computed once for a whole simulated swarm.

A broadcast message is checked by every node that gets it, so a swarm of ``n`` nodes in one process
checks each signature and each proof ``n`` times. Where a verdict rests on the message alone, all
honest nodes come to the same, and one of them is enough. Which hooks of which plugins are such is
for whoever sets up the simulation to say: ``[simulation] once = ["ed25519.authenticate"]``.

In sharded rounds each of a committee merges the same shard. Where the rule and all its wrappers are
named, ``"median.aggregate"``, one of them is enough (:meth:`WrappedKernel.found`).

Of verdicts only acceptances are shared. A message that is refused is looked at by every node, and
so is each different message, each other plugin class and each other option.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from qres_core.contract.errors import LabError
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.types import Contribution
from qres_core.contract.verdict import ACCEPT, Verdict
from qres_core.contract.wire import Envelope
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.calls import Caller
from qres_core.kernel.config import Config
from qres_core.swarm.shards.merging import MERGES

KEPT: Final = 65_536
"""Acceptances that are remembered."""


def _message(arguments: dict[str, Any]) -> tuple[object, ...]:
    envelope: Envelope = arguments["envelope"]
    return envelope.signing_digest, arguments["quoted"], *envelope.auth.items()


def _contribution(arguments: dict[str, Any]) -> tuple[object, ...]:
    contribution: Contribution = arguments["contribution"]
    info: RoundInfo = arguments["round_info"]
    return contribution.sender, contribution.digest, info.number, info.head


KeyOf = Callable[[dict[str, Any]], tuple[object, ...]]

KEYS: Final[dict[str, KeyOf]] = {
    "authenticate": _message,
    "verify": _contribution,
}
"""What a verdict of a hook may rest on, for it to be shared."""
NAMED: Final = sorted({*KEYS, *MERGES})
"""Hooks of which it can be said that they tell all nodes the same."""


class Once:
    """Shares verdicts between the kernels of one simulation.

    Args:
        named: hooks of plugins, each as ``plugin.hook``.

    Raises:
        LabError: QRES-E105 for a name that is none, or of a hook that cannot be shared.
    """

    def __init__(self, named: Iterable[str]) -> None:
        self._named = frozenset(named)
        pairs = (item.partition(".") for item in self._named)
        self.named = frozenset((name, hook) for name, _dot, hook in pairs)
        self._accepted: dict[tuple[object, ...], None] = {}
        for item in sorted(self._named):
            if item.partition(".")[2] not in NAMED:
                what = f"{item!r} does not name a verdict that can be shared"
                fix = f"write PLUGIN.HOOK with one of the hooks {', '.join(NAMED)}"
                raise LabError.of("QRES-E105", "simulation.once", what, fix)

    def check(self, config: Config) -> None:
        """Refuse plugins that are not enabled. Raises LabError: QRES-E105."""
        for item in sorted(self._named):
            name = item.partition(".")[0]
            if name not in config.plugins:
                what = f"{item!r}: no plugin {name!r} is enabled"
                raise LabError.of("QRES-E105", "simulation.once", what, "leave it out")

    def wrap(self, plugin: Enabled, hook: str, ask: Caller) -> Caller:
        """Way of a node to a verdict: that of the node that came to it first, where named."""
        if hook == "verify_all" and f"{plugin.name}.verify" in self._named:
            return self._asked_together((plugin.name, "verify", type(plugin.instance)), ask)
        if hook not in KEYS or f"{plugin.name}.{hook}" not in self._named:
            return ask
        return self._asked((plugin.name, hook, type(plugin.instance)), KEYS[hook], ask)

    def _asked(self, who: tuple[object, ...], key_of: KeyOf, ask: Caller) -> Caller:
        def asked(**arguments: Any) -> list[Any]:
            key = (who, *key_of(arguments))
            if key in self._accepted:
                return [ACCEPT]
            results = ask(**arguments)
            if len(results) == 1 and results[0] is ACCEPT:
                self._keep(key)
            return results

        return asked

    def _asked_together(self, who: tuple[object, ...], ask: Caller) -> Caller:
        def asked(
            contributions: tuple[Contribution, ...], round_info: RoundInfo
        ) -> list[list[Verdict]]:
            keys = [
                (who, *_contribution({"contribution": contribution, "round_info": round_info}))
                for contribution in contributions
            ]
            new = [at for at, key in enumerate(keys) if key not in self._accepted]
            found = [ACCEPT] * len(contributions)
            if new:
                chosen = tuple(contributions[at] for at in new)
                results = ask(contributions=chosen, round_info=round_info)
                answers: list[Verdict] = results[0] if len(results) == 1 else []
                for at, verdict in zip(new, answers, strict=True):
                    found[at] = verdict
                    if verdict is ACCEPT:
                        self._keep(keys[at])
            return [found]

        return asked

    def _keep(self, key: tuple[object, ...]) -> None:
        self._accepted[key] = None
        if len(self._accepted) > KEPT:
            del self._accepted[next(iter(self._accepted))]
