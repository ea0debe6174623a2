"""Attacks on a whole simulated swarm, as exhibits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import attrs

from qres_core.attacks.installed import find_sabotage, on_protocol
from qres_core.attacks.scenario import Scenario
from qres_core.contract.errors import QresError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import scan
from qres_core.lab.events import EventEngine
from qres_core.lab.experiment import Experiment
from qres_core.lab.nodes import identify
from qres_core.lab.record import SimulationResult
from qres_core.training.tasks import TaskConfig, make_task
from qres_lab.exhibit import AttackOutcome, GalleryOutcome, GallerySetting
from qres_lab.gallery.defences import ROUNDS, Defence

_SHARED: Final = ("ed25519.authenticate", "zk.verify")
"""Verdicts that rest on the message alone: one node's stand for all."""
_STOPS: Final = "QRES-E6"
"""Family of the errors that end a swarm which runs."""
_TOLD: Final = 3
"""Reasons that are shown of each kind, the most frequent first."""

Judge = Callable[["Played"], tuple[str, float, float | None, str]]
"""Of a played swarm: what is measured, its value, the limit, and a sentence."""


@attrs.frozen
class Played:
    """A simulation with what its messages weighed."""

    result: SimulationResult
    octets: int


@attrs.frozen(kw_only=True)
class SwarmAttack:
    """An attack of the laboratory, as the gallery plays it."""

    attack: str  # its name in the laboratory; empty for none
    judge: Judge  # what decides
    rounds: int = ROUNDS  # rounds played
    strength: float | None = None  # of the attack; ``None`` for its own
    alpha: float = 0.0  # how uneven the data are; 0 for even
    sabotage: str = ""  # what attackers do beside their lie; empty for nothing
    lies: str = "protocol"  # "raw" for lies that bypass the attackers' own plugins

    def play(self, defence: Defence, setting: GallerySetting) -> GalleryOutcome:
        """Play the swarm and say what came of it.

        Raises:
            LabError: QRES-E802: what is missing is missing to every exhibit, so it is no outcome.
        """
        try:
            played = self._played(defence, setting)
        except QresError as error:
            problem = error.problems[0]
            if problem.code == "QRES-E802":
                raise
            stopped = str(problem.code).startswith(_STOPS)  # it had started, and the attack did it
            return GalleryOutcome(
                defence=defence.name,
                measure="the swarm stopped" if stopped else "-",
                value=0.0,
                fate=AttackOutcome.FAILED if stopped else AttackOutcome.IMPOSSIBLE,
                control=defence.control,
                reason=f"{problem.code} {problem.where}: {problem.what}",
            )
        result = played.result
        measure, value, limit, reason = self.judge(played)
        curve = tuple(record.metrics["accuracy"] for record in result.closed)
        held = limit is None or value <= limit
        return GalleryOutcome(
            defence=defence.name,
            measure=measure,
            value=value,
            limit=limit,
            fate=AttackOutcome.HELD if held else AttackOutcome.FAILED,
            control=defence.control,
            accuracy=result.final("accuracy"),
            curve=curve,
            detected=noticed(played),
            reason=reason,
            messages=result.messages,
            octets=played.octets,
        )

    def _played(self, defence: Defence, setting: GallerySetting) -> Played:
        breaks = self.attack in on_protocol()
        outsiders = breaks and not find_sabotage(self.attack).make().credentials
        rounds = min(2, self.rounds) if setting.quick else self.rounds
        config = _config(defence, setting.seed, rounds, outsiders=outsiders)
        scenario = Scenario(
            rounds=rounds,
            seed=setting.seed,
            attack=self.attack,
            attackers=defence.attackers if self.attack else 0,
            strength=self.strength,
            lies=self.lies,
            sabotage=self.sabotage,
            once=tuple(item for item in _SHARED if item.partition(".")[0] in config.plugins),
        )
        digits = TaskConfig(
            local_epochs=1 if setting.quick else 2,
            partition="dirichlet" if self.alpha else "iid",
            alpha=self.alpha or 0.5,
            held_out=defence.held_out,
            same_held_out=defence.public,
        )
        task = make_task(digits, nodes=defence.nodes, seed=setting.seed)
        engine = EventEngine(Experiment(config, scenario, task, scan()))
        try:
            engine.run()
        finally:
            for kernel in engine.kernels:
                kernel.teardown()
        return Played(engine.result(), engine.network.octets)


def _config(defence: Defence, seed: int, rounds: int, *, outsiders: bool) -> Config:
    tables: dict[str, dict[str, Any]] = {"memory": {}}
    tables |= {name: dict(table) for name, table in defence.plugins.items()}
    if defence.budget:
        tables[defence.budget]["rounds"] = rounds
    swarm = {
        "name": "gallery",
        "nodes": defence.nodes,
        "byzantine": defence.attackers,
        "quorum": defence.nodes - defence.attackers,
        "insecure": "replay" not in tables,
        "deadline": 10.0,
        "vote_timeout": 2.0,
    }
    if defence.members:
        inside = defence.nodes - defence.attackers if outsiders else defence.nodes
        open_ = {name: table for name, table in tables.items() if name != "pki"}
        drawn = parse({"swarm": swarm, "plugins": open_}, source="gallery")
        _kernels, ids = identify(drawn, seed, scan())
        tables["pki"] = {"members": [node_id.hex() for node_id in ids[:inside]]}
    return parse({"swarm": swarm, "plugins": tables}, source="gallery")


def noticed(played: Played) -> tuple[str, ...]:
    """Parties that noticed an attack: refusals by reason, bans, rounds without a model."""
    result = played.result
    found: list[str] = []
    refused: Counter[str] = Counter()
    for record in result.rounds:
        refused.update(record.rejected)
    refused.update({why: n for why, n in result.injected.items() if why != "admitted"})
    if result.attack:
        found += [f"refused: {why} ({n})" for why, n in _most(refused)]
    last = result.rounds[-1] if result.rounds else None
    if last is not None and last.banned_attackers:
        found.append(f"banned: {last.banned_attackers} of {result.attackers} attackers")
    if last is not None and last.banned_honest:
        found.append(f"BANNED: {last.banned_honest} honest nodes")
    lost = Counter(record.outcome for record in result.rounds if not record.closed)
    found += [f"{why} ({n})" for why, n in _most(lost)]
    return tuple(found)


def _most(counted: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))[:_TOLD]


# ── what decides ──────────────────────────────────────────────────────────────────────────────


def accuracy(played: Played) -> tuple[str, float, float | None, str]:
    """Of the final model; a baseline decides."""
    result = played.result
    lost = {"aborted": len(result.aborted), "void": len(result.void)}
    reason = ", ".join(f"{count} rounds {how}" for how, count in lost.items() if count)
    return "accuracy", played.result.final("accuracy") or 0.0, None, reason


def backdoor(played: Played) -> tuple[str, float, float | None, str]:
    """Success rate of the trigger."""
    share = played.result.final("backdoor") or 0.0
    return "held-out examples that the trigger turns", share, 0.2, ""


def admitted(limit: float) -> Judge:
    """The share of injected messages that honest nodes took in."""

    def judge(played: Played) -> tuple[str, float, float | None, str]:
        injected = played.result.injected
        total = sum(injected.values())
        share = injected.get("admitted", 0) / total if total else 0.0
        shown = f"{injected.get('admitted', 0)} of {total} injected messages were taken in"
        return "injected messages that honest nodes took in", share, limit, shown

    return judge


def unbanned(played: Played) -> tuple[str, float, float | None, str]:
    """The share of injected messages that were looked at, because their sender was not banned."""
    injected = played.result.injected
    total = sum(injected.values())
    share = 1.0 - injected.get("banned", 0) / total if total else 0.0
    return "injected messages that cost the receiver work", share, 0.1, ""


def merged(played: Played) -> tuple[str, float, float | None, str]:
    """Contributions of attackers in the last two models."""
    last = played.result.closed[-2:]
    count = max((value.attackers_accepted for value in last), default=0)
    agreed = "all honest nodes hold one model" if played.result.unanimous else "MODELS DIFFER"
    return "attackers still in the agreed set", float(count), 0.0, agreed


def honest_banned(played: Played) -> tuple[str, float, float | None, str]:
    """Honest nodes that lies about them got banned."""
    count = max((item.banned_honest for item in played.result.rounds), default=0)
    return "honest nodes banned", float(count), 0.0, ""


def at_large(played: Played) -> tuple[str, float, float | None, str]:
    """The share of attackers that no honest node bans at the end."""
    last = played.result.rounds[-1] if played.result.rounds else None
    banned = 0 if last is None else last.banned_attackers
    share = 1.0 - banned / max(1, played.result.attackers)
    return "attackers that are not banned", share, 0.0, ""


def led_astray(played: Played) -> tuple[str, float, float | None, str]:
    """Honest nodes that end with another model than the most of them."""
    models = Counter(played.result.model_digests)
    astray = sum(models.values()) - max(models.values(), default=0)
    return "honest nodes with a model of their own", float(astray), 0.0, ""
