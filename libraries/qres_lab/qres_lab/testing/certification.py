"""The conformance suite's findings about one rule, in one record."""

from __future__ import annotations

import json
import math
import platform
import shlex
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from importlib.metadata import version
from typing import Any, Final, TypeVar

import attrs
import numpy as np
import pytest

from qres_core.contract.claims import Needs
from qres_core.contract.errors import QresError, ValueRefusedError
from qres_core.kernel.config import structure
from qres_lab.testing.aggregator import AggregatorContract
from qres_lab.testing.attacking import known_attacks
from qres_lab.testing.builders import make_round_info, make_updates
from qres_lab.testing.composition import CertifiedPart, Composition
from qres_lab.testing.hosting import seat
from qres_lab.testing.measurement import AttackFound, KappaFound, worst_of
from qres_lab.testing.robustness import lower_bound
from qres_lab.testing.rules import RULES, ContractViolationError

T = TypeVar("T")

FORMAT: Final = "qres-certificate/1"
PASSED: Final = "passed"
FAILED: Final = "failed"
NOT_ASKED: Final = "not asked"
_SIZES: Final = ((11, 1_000), (11, 100_000), (50, 10_000), (50, 100_000))
_LONG: Final = 0.25
_RUNS: Final = 3


@attrs.frozen(kw_only=True)
class MeasuredClaims:
    """Claims of a rule beyond its ``needs``: attributes of the suite to be held against.

    Each is described at :class:`~qres_lab.testing.AggregatorContract`.
    """

    dimension: int = attrs.field(default=7, validator=attrs.validators.ge(1))
    spread: int = attrs.field(default=4096, validator=attrs.validators.in_(range(16, 2**20)))
    rounding: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    bounded_by_inputs: bool = True
    stretch: float = attrs.field(default=1.0, validator=attrs.validators.ge(0.0))
    stateless: bool = True
    anonymous: bool = True
    draws: bool = False
    translates: bool = True
    kappa: float | None = None
    breaks_beyond: bool = False


@attrs.frozen
class RuleVerdict:
    """Verdict of the suite on one of its rules.

    Attributes:
        rule: id of the rule.
        title: its title.
        outcome: ``passed``, ``failed`` or ``not asked``.
        why: what was seen, or why it was not asked; empty if it passed.
    """

    rule: str
    title: str
    outcome: str
    why: str = ""


@attrs.frozen
class Timing:
    """CPU time of one call; a median of three.

    Attributes:
        updates: ``n``.
        dimension: ``d``.
        milliseconds: of all threads together.
    """

    updates: int
    dimension: int
    milliseconds: float


@attrs.frozen
class AttackRow:
    """One attack against the rule.

    Attributes:
        attack: its name.
        summary: what it sends.
        knowledge: what the attacker must know.
        found: what it did.
        kappa: the kappa it asks for; ``math.inf`` if none is enough, ``None`` if nothing of it
            reaches a rule.
    """

    attack: str
    summary: str
    knowledge: str
    found: AttackFound
    kappa: float | None


@attrs.frozen
class Robustness:
    """Measured (f, kappa)-robustness.

    Attributes:
        count: ``n``.
        liars: ``f``.
        measured: the largest kappa that any inputs ask for: every bound must be at least this.
        least: ``f / (n - 2 f)``, below which no rule has its kappa.
        declared: the bound that is claimed, ``None`` for some finite one, ``math.inf`` for none.
        worst: the inputs that ask for most, by falling kappa.
        inputs: how many sets of inputs were tried, each with all its sets of honest rows.
    """

    count: int
    liars: int
    measured: float
    least: float
    declared: float | None
    worst: tuple[tuple[str, float], ...]
    inputs: int


@attrs.frozen(kw_only=True)
class RuleReport:
    """Report on a rule.

    Attributes:
        spec: what was asked to be certified.
        options: the options that were given, by name.
        parts: the plugins in it.
        tolerates: liars they withstand together; ``None`` where they promise nothing.
        needs: what they need together.
        claims: what is claimed of it besides.
        nodes: updates in a test round.
        seed: decides everything random.
        verdicts: one for each rule of the suite.
        robustness: ``None`` if it could not be measured.
        attacks: one for each attack of the registry; empty if they could not be played.
        breakdown: most far liars withstood, and of how many updates; ``None`` if not measured.
        timings: CPU time at a few sizes, as information.
        versions: what to run to get the same certificate.
    """

    spec: str
    options: tuple[tuple[str, object], ...]
    parts: tuple[CertifiedPart, ...]
    tolerates: int | None
    needs: Needs
    claims: MeasuredClaims
    nodes: int
    seed: int
    verdicts: tuple[RuleVerdict, ...]
    robustness: Robustness | None
    attacks: tuple[AttackRow, ...]
    breakdown: tuple[int, int] | None
    timings: tuple[Timing, ...]
    versions: Mapping[str, str]

    @property
    def failed(self) -> tuple[RuleVerdict, ...]:
        """The rules it breaks."""
        return tuple(verdict for verdict in self.verdicts if verdict.outcome == FAILED)

    @property
    def certified(self) -> bool:
        """True if it withstands liars and breaks no rule."""
        return bool(self.tolerates) and not self.failed

    @property
    def conclusion(self) -> str:
        """One sentence."""
        liars, fewest = self.tolerates, self.needs.min_updates
        if self.failed:
            broken = ", ".join(item.rule for item in self.failed)
            return f"Not certified: it breaks {broken}."
        if not liars:
            return (
                f"Not certified: claims.tolerates is {liars}, so it promises to withstand nobody "
                "and nothing about liars could be asked. It breaks no rule that was."
            )
        return (
            f"Certified: no rule is broken with {liars} liars; needs at least {fewest} updates, "
            f"tested with {fewest} to {max(self.nodes, fewest)}."
        )

    @property
    def command(self) -> str:
        """The command that makes this certificate again."""
        words = ["qres", "certify", shlex.quote(self.spec)]
        for name, value in self.options:
            words += ["--option", shlex.quote(f"{name}={_toml(value)}")]
        for name, value in attrs.asdict(self.claims).items():
            if value != getattr(MeasuredClaims(), name):
                words += ["--claim", f"{name}={_toml(value)}"]
        return " ".join([*words, "--nodes", str(self.nodes), "--seed", str(self.seed)])

    def to_json(self) -> dict[str, Any]:
        """As data of JSON; an unbounded kappa is the text ``unbounded``."""
        return {
            "format": FORMAT,
            "certified": self.certified,
            "conclusion": self.conclusion,
            "spec": self.spec,
            "parts": [
                {**attrs.asdict(part), "options": _plain(part.options)} for part in self.parts
            ],
            "needs": {
                "visibility": self.needs.visibility.name.lower(),
                "min_updates": self.needs.min_updates,
                "tolerates": self.tolerates,
                "equal_weights": self.needs.equal_weights,
            },
            "claims": {**attrs.asdict(self.claims), "kappa": _number(self.claims.kappa)},
            "nodes": self.nodes,
            "seed": self.seed,
            "rules": [attrs.asdict(verdict) for verdict in self.verdicts],
            "robustness": self.robustness
            and {
                "n": self.robustness.count,
                "f": self.robustness.liars,
                "measured": _number(self.robustness.measured),
                "lower_bound": self.robustness.least,
                "declared": _number(self.robustness.declared),
                "inputs": self.robustness.inputs,
                "worst": [
                    {"inputs": name, "kappa": _number(kappa)}
                    for name, kappa in self.robustness.worst
                ],
            },
            "attacks": [
                {
                    "attack": attack.attack,
                    "summary": attack.summary,
                    "knowledge": attack.knowledge,
                    "deviation": attack.found.deviation,
                    "kappa": _number(attack.kappa),
                    "withstood": attack.found.withstood,
                    "why": attack.found.why,
                }
                for attack in self.attacks
            ],
            "breakdown": self.breakdown
            and {"withstood": self.breakdown[0], "updates": self.breakdown[1]},
            "timings": [attrs.asdict(timing) for timing in self.timings],
            "versions": dict(self.versions),
            "command": self.command,
        }


def _toml(value: object) -> str:
    return repr(value) if isinstance(value, float) else json.dumps(value, default=str)


def _number(value: float | None) -> float | str | None:
    return "unbounded" if value is not None and math.isinf(value) else value


def _plain(options: Mapping[str, object]) -> dict[str, object]:
    kinds = (bool, int, float, str, type(None))
    return {
        name: value if isinstance(value, kinds) else repr(value) for name, value in options.items()
    }


def make_claims(stated: Sequence[tuple[str, object]]) -> MeasuredClaims:
    """Claims from names and values; ``kappa = inf`` claims no bound.

    Raises:
        ConfigError: QRES-E1xx for an unknown name or a wrong value.
    """
    table = dict(stated)
    unbounded = table.get("kappa") == math.inf
    if unbounded:
        del table["kappa"]
    claims: MeasuredClaims = structure(table, MeasuredClaims, "claim")
    return attrs.evolve(claims, kappa=math.inf) if unbounded else claims


def certify(
    found: Composition,
    *,
    claims: MeasuredClaims | None = None,
    nodes: int | None = None,
    seed: int = 0,
) -> RuleReport:
    """Run the whole suite against a rule and write down what it finds.

    Args:
        found: the rule, from :func:`~qres_lab.testing.composition.find_rule`.
        claims: what is claimed of it.
        nodes: updates in a test round; 11, or what the rule needs if that is more.
        seed: decides everything random.

    Raises:
        ValueRefusedError: QRES-E505 if ``nodes`` are fewer than the rule needs.
        PluginError: the rule cannot be held as the kernel does; or an attack of an installed
            distribution cannot be used.
    """
    claims = claims or MeasuredClaims()
    stated = seat(found.make()).claims
    fewest = max(stated.needs.min_updates, 2 * stated.liars + 1)
    if nodes is not None and nodes < fewest:
        raise ValueRefusedError.of(
            "QRES-E505", "--nodes", f"{nodes} updates, the rule needs {fewest}", "raise --nodes"
        )
    count = nodes or max(11, fewest)
    known = known_attacks()
    suite = _suite(found, claims, count, seed)
    verdicts = tuple(_verdict(suite, name) for name in _tests())
    kappas: Sequence[KappaFound] = _measured(suite.measure_kappa) or ()
    attacks: Sequence[AttackFound] = _measured(suite.measure_attacks) or ()
    asked = _by_attack(kappas)
    return RuleReport(
        spec=found.spec,
        options=found.options,
        parts=found.parts,
        tolerates=stated.tolerates,
        needs=stated.needs,
        claims=claims,
        nodes=count,
        seed=seed,
        verdicts=verdicts,
        robustness=_robustness(suite, kappas, stated.liars),
        attacks=tuple(
            AttackRow(
                attack.attack,
                known[attack.attack].summary,
                known[attack.attack].knowledge,
                attack,
                asked.get(attack.attack),
            )
            for attack in attacks
        ),
        breakdown=_measured(suite.measure_breakdown),
        timings=tuple(_measured(lambda: _timings(found, fewest)) or ()),
        versions={
            "qres-core": version("qres-core"),
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": platform.machine(),
        },
    )


def _suite(found: Composition, claims: MeasuredClaims, count: int, seed: int) -> AggregatorContract:
    body: dict[str, Any] = attrs.asdict(claims)

    def make(_self: object) -> object:
        return found.make()

    kind = type("Certified", (AggregatorContract,), {**body, "make": make, "updates": count})
    kind.seed = seed  # type: ignore[attr-defined]
    suite: AggregatorContract = kind()
    return suite


def _tests() -> list[str]:
    names = [name for name in dir(AggregatorContract) if name.startswith("test_agg_")]
    return sorted(names, key=lambda name: int(name.split("_")[2]))


def _verdict(suite: AggregatorContract, name: str) -> RuleVerdict:
    rule = f"QRES-AGG-{name.split('_')[2]}"
    outcome, why = PASSED, ""
    try:
        getattr(suite, name)()
    except ContractViolationError as error:
        outcome = FAILED
        why = error.what if error.rule == rule else f"{error.rule}: {error.what}"
    except pytest.skip.Exception as skipped:
        outcome, why = NOT_ASKED, str(skipped.msg)
    except Exception as error:  # noqa: BLE001 - whatever a plugin raises outside its hook
        outcome, why = FAILED, f"raised {type(error).__name__}: {error}"
    return RuleVerdict(rule, RULES[rule], outcome, why)


def _measured(measure: Callable[[], T]) -> T | None:
    """A measurement, or none of a rule that breaks on its inputs: a verdict says so already."""
    try:
        return measure()
    except (ContractViolationError, QresError, ArithmeticError, ValueError):
        return None


def _by_attack(kappas: Sequence[KappaFound]) -> dict[str, float]:
    worst: dict[str, Fraction | float] = {}
    for item in kappas:
        if item.attack:
            worst[item.attack] = max(worst.get(item.attack, Fraction(0)), item.worst.kappa)
    return {attack: float(kappa) for attack, kappa in worst.items()}


def _robustness(
    suite: AggregatorContract, kappas: Sequence[KappaFound], liars: int
) -> Robustness | None:
    if not kappas:
        return None
    count = kappas[0].count
    ordered = sorted(kappas, key=lambda kappa: kappa.worst.kappa, reverse=True)
    return Robustness(
        count,
        liars,
        float(worst_of(kappas).worst.kappa),
        float(lower_bound(count, liars)),
        suite.kappa_declared(count, liars),
        tuple((item.inputs, float(item.worst.kappa)) for item in ordered[:5]),
        len(kappas),
    )


def _timings(found: Composition, fewest: int) -> list[Timing]:
    """CPU time by growing size, up to the first call that takes long."""
    done: list[Timing] = []
    for count, dimension in _SIZES:
        rows = np.random.default_rng(0).integers(
            -(2**16), 2**16, size=(max(count, fewest), dimension)
        )
        updates = make_updates(rows)
        seated = seat(found.make())
        info = make_round_info(dimension, nodes=len(updates), byzantine=seated.claims.liars)
        spent: list[float] = []
        for _ in range(_RUNS):
            start = time.process_time()
            seated.manager.hook.aggregate(updates=updates, round_info=info)
            spent.append(time.process_time() - start)
        taken = statistics.median(spent)
        done.append(Timing(len(updates), dimension, 1000 * taken))
        if taken > _LONG:
            break
    return done
