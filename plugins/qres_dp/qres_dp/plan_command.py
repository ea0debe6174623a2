"""``qres dp plan``: what the options of a file, or a budget alone, come to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR
from pathlib import Path
from typing import Any

import attrs
import click

from qres_core import Surroundings, Visibility, commands, reporting
from qres_core.errors import ConfigError
from qres_dp import accounting, ranges
from qres_dp.account import PrivacyAccount
from qres_dp.modes import Mode, Unit
from qres_dp.output import bounded, write_new
from qres_dp.plan import VERSION, PrivacyPlan
from qres_dp.plugin import Dp

_PATH = click.Path(path_type=Path)
_UNITS = click.Choice([unit.value for unit in Unit])
_MODES = click.Choice([mode.value for mode in Mode])


@attrs.frozen
class _Budget:
    """Epsilon, rounds and noise multiplier of rounds that are all alike."""

    epsilon: float
    rounds: int
    noise: float
    delta: float

    def spent(self, rounds: int) -> float:
        return accounting.epsilon(self.noise, rounds, self.delta)

    def needed(self, epsilon: float) -> float:
        return accounting.calibrate(epsilon, self.delta, self.rounds)


def _budget(
    epsilon: float | None, rounds: int | None, noise: float | None, delta: float
) -> _Budget:
    """The third of three numbers from the other two."""
    if (epsilon, rounds, noise).count(None) != 1:
        what = "two of --epsilon, --rounds and --noise are needed; the third follows"
        raise ConfigError.of("QRES-E103", "qres dp plan", what, "or name a configuration file")
    if noise is None:
        assert epsilon is not None  # noqa: S101 - counted above, which checkers do not follow
        assert rounds is not None  # noqa: S101 - likewise
        noise = accounting.calibrate(epsilon, delta, rounds)
        epsilon = accounting.epsilon(noise, rounds, delta)
    elif epsilon is None:
        assert rounds is not None  # noqa: S101 - likewise
        epsilon = accounting.epsilon(noise, rounds, delta)
    else:
        rounds = accounting.most_rounds(noise, epsilon, delta)
        if not rounds:
            item = accounting.epsilon(noise, 1, delta)
            what = f"one round spends epsilon {item:.6g}, and the budget is {epsilon:g}"
            raise ConfigError.of("QRES-E105", "--noise", what, "more noise, or a larger budget")
    assert rounds is not None  # noqa: S101 - likewise
    return _Budget(epsilon, rounds, noise, delta)


def _around(value: float) -> list[float]:
    return [value * 2.0**power for power in range(-3, 4)]


def _tables(budget: _Budget) -> dict[str, list[dict[str, Any]]]:
    """Epsilon by rounds at this noise; noise by epsilon at these rounds."""
    rounds = sorted({max(1, round(r)) for r in _around(budget.rounds)})
    return {
        "by_rounds": [{"rounds": r, "epsilon": budget.spent(r)} for r in rounds if r <= 10**9],
        "by_epsilon": [
            {"epsilon": e, "noise_multiplier": budget.needed(e)}
            for e in _around(max(budget.epsilon, 1e-6))
            if 1e-6 <= e <= 1e6
        ],
    }


def _chart(
    title: str,
    labels: tuple[str, str],
    points: list[tuple[float, float]],
    mark: tuple[float, float],
) -> reporting.Chart:
    across, up = (reporting.Axis(label, logarithmic=True) for label in labels)
    return reporting.Chart([reporting.Line(points)], title, across, up, [mark])


def _plot(budget: _Budget, path: Path) -> None:
    if path.suffix != ".svg":
        raise ConfigError.of("QRES-E105", "--plot", f"{path}: only .svg is written")
    grow = [2.0 ** (-4 + 6 * i / 59) for i in range(60)]
    rounds = sorted({max(1, round(budget.rounds * g)) for g in grow} | {budget.rounds})
    spent = [(float(r), budget.spent(r)) for r in rounds if r <= 10**9]
    goals = [max(budget.epsilon, 1e-6) * g for g in grow]
    needed = [(e, budget.needed(e)) for e in goals if 1e-6 <= e <= 1e6]
    charts = [
        _chart(
            f"noise multiplier {budget.noise:.4g}, delta {budget.delta:g}",
            ("rounds", "epsilon"),
            [(x, max(y, 1e-12)) for x, y in spent],
            (float(budget.rounds), max(budget.epsilon, 1e-12)),
        ),
        _chart(
            f"{budget.rounds} rounds, delta {budget.delta:g}",
            ("epsilon", "noise multiplier"),
            needed,
            (max(budget.epsilon, 1e-6), budget.noise),
        ),
    ]
    write_new(path, reporting.svg_file(charts), "--plot")


def _by_options(given: dict[str, Any], settings: Sequence[str]) -> PrivacyPlan:
    """The plan of options on the command line, for a swarm that needs all its nodes in a round."""
    nodes, dimension = given["nodes"], given["dimension"]
    if nodes is None or dimension is None or given["clip"] is None:
        what = "a whole plan needs --nodes, --dimension and --clip"
        raise ConfigError.of("QRES-E103", "--mode", what, "or name a configuration file")
    table = {
        "mode": given["mode"],
        "clip": given["clip"],
        "delta": _delta(given),
        "honest": given["honest"] or 0,
        "relation": given["relation"] or "",
        "unit": given["unit"] or Unit.NODE.value,
        "records": given["records"] or 0,
        "epsilon": given["epsilon"] or 0.0,
        "rounds": given["rounds"] or 0,
        "noise_multiplier": given["noise"] or 0.0,
    }
    plugin = commands.structured(Dp, "plugins.dp", table, settings)
    return plugin.plan(
        Surroundings(
            nodes=nodes,
            byzantine=0,
            quorum=nodes,
            scale=given["scale"] or 0,
            dimension=dimension,
            visibility=Visibility.SUM,
            members=nodes,
        )
    )


_TOLD = {
    "mode": "mode",
    "unit": "unit",
    "relation": "neighbours",
    "noise": "noise of different rounds",
    "bound_steps": "clipping bound, in steps of the grid",
    "sensitivity_steps": "sensitivity of a sum, in steps",
    "noise_of_share_steps": "noise drawn at once, deviation in steps",
    "noise_of_share": "noise drawn at once, deviation",
    "noise_of_sum": "noise in a sum of all nodes, deviation",
    "noise_of_mean": "noise in the mean of all nodes, deviation",
    "signal_to_noise": "longest mean over length of its noise",
    "room_used": "part of the grid's range in use",
}


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(result: dict[str, Any], unit: str) -> Iterator[str]:
    """The JSON in lines for people."""
    # A plan has so much noise at least; a budget alone needs so much at most.
    way = ROUND_FLOOR if "mechanism" in result else ROUND_CEILING
    noise = bounded(result["noise_multiplier"], way=way)
    yield f"epsilon           {bounded(result['epsilon'])}"
    yield f"delta             {result['delta']:g}"
    yield f"mu                {bounded(result['mu'])}"
    yield f"rounds            {result['rounds']}"
    yield f"noise multiplier  {noise}"
    yield f"the dearest round epsilon {bounded(result['round']['epsilon'])}"
    for group in result["groups"]:
        if group["epsilon"] is not None:
            yield f"{group['size']:>2} {unit}s together epsilon {bounded(group['epsilon'])}"
    for key, value in result.get("mechanism", {}).items():
        if key in _TOLD and value is not None:
            yield f"{_TOLD[key]:42}{_number(value)}"
    if "trust" in result:
        trust = result["trust"]
        yield f"\nprotected: {trust['unit']}"
        yield f"cannot be told apart: {trust['neighbours']}"
        yield f"from: {trust['protects_from']}"
        yield "if all of this is true:"
        yield from (f"- {text}" for text in trust["assumes"])
    if "by_rounds" in result:
        yield f"\nat noise multiplier {noise}"
        yield f"{'rounds':>12}{'epsilon':>12}"
        for row in result["by_rounds"]:
            yield f"{row['rounds']:>12}{bounded(row['epsilon']):>12}"
        yield f"\nover {result['rounds']} rounds"
        yield f"{'epsilon':>12}{'noise':>12}"
        for row in result["by_epsilon"]:
            yield f"{bounded(row['epsilon']):>12}{bounded(row['noise_multiplier']):>12}"


_WHOLE = ("nodes", "dimension", "clip", "records", "honest", "scale", "relation")
"""Options that tell nothing without a mode."""
_OWN = ("epsilon", "rounds", "noise", "delta", "mode", "unit", *_WHOLE)
"""Options that a configuration file says; only the dimension may be told beside it."""


def _delta(given: dict[str, Any]) -> float:
    delta: float | None = given["delta"]
    return 1e-5 if delta is None else delta


def _refuse_whole(given: dict[str, Any], settings: Sequence[str]) -> None:
    """A budget alone takes nothing that it would not look at."""
    for name in _WHOLE:
        if given[name] is not None:
            what = f"--{name} is for a whole plan"
            raise ConfigError.of("QRES-E103", "--mode", what, "set --mode, or leave it out")
    if settings:
        what = f"--set {settings[0]} is for a whole plan"
        raise ConfigError.of("QRES-E103", "--mode", what, "set --mode, or name a file")


def _by_file(path: Path, given: dict[str, Any], settings: Sequence[str]) -> PrivacyPlan:
    for name in _OWN:
        if given[name] is not None and name != "dimension":
            what = f"--{name.replace('_', '-')} beside {path}, which says it"
            fix = f"--set plugins.dp.{name}=..., which goes before what the file says"
            raise ConfigError.of("QRES-E103", "qres dp plan", what, fix)
    found = commands.configured(path, "dp", settings=settings, dimension=given["dimension"])
    if not isinstance(found.instance, Dp):
        raise ConfigError.of("QRES-E103", f"{path}: plugins.dp", "is not the plugin of qres-dp")
    return found.instance.plan(found.around)


@click.command("plan")
@click.argument("path", type=_PATH, required=False)
@click.option("--epsilon", type=float, help="Budget of all rounds together.")
@click.option("--rounds", type=int, help="Rounds the budget is for.")
@click.option("--noise", type=float, help="Noise multiplier: deviation over sensitivity.")
@click.option("--delta", type=float, help="Of the guarantee.  [default: 1e-05]")
@click.option("--mode", type=_MODES, help="With --nodes, --dimension, --clip: a whole plan.")
@click.option("--nodes", type=click.IntRange(*ranges.NODES), help="Nodes of the swarm.")
@click.option(
    "--dimension", type=click.IntRange(*ranges.COORDINATES), help="Coordinates of an update."
)
@click.option("--clip", type=float, help="Greatest L2 norm of what a unit adds to an update.")
@click.option("--unit", type=_UNITS, help="What is protected.  [default: node]")
@click.option("--records", type=int, help="Unit record: most records of a node.")
@click.option("--honest", type=int, help="Mode distributed: shares nobody knows.")
@click.option("--scale", type=click.IntRange(*ranges.SCALE), help="As swarm.scale.  [default: 0]")
@click.option("--relation", help="add-remove or replace-one; the mode's by default.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option("--plot", type=_PATH, help="Write both curves to this SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan_command(
    path: Path | None,
    *,
    settings: tuple[str, ...],
    plot: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Show the plan of a configuration, or of a budget: noise, epsilon, trust.

    PATH is a configuration file that would start. Without it, two of --epsilon, --rounds and
    --noise are needed, and the third follows. Every epsilon printed is an upper bound for all
    rounds together.
    """
    if path is not None:
        made = _by_file(path, given, settings)
    elif given["mode"] is not None:
        made = _by_options(given, settings)
    else:
        made = None
    if made is None:
        _refuse_whole(given, settings)
        unit = given["unit"] or Unit.NODE.value
        budget = _budget(given["epsilon"], given["rounds"], given["noise"], _delta(given))
        account = PrivacyAccount({budget.noise: budget.rounds}, budget.delta)
        result: dict[str, Any] = {
            "version": VERSION,
            "noise_multiplier": budget.noise,
            **account.to_json(),
        }
    else:
        terms, account = made.terms, made.account
        unit = terms.unit.value
        budget = _Budget(account.epsilon, account.rounds, terms.multiplier, account.delta)
        result = made.to_json()
    alike = len(account.charges) == 1
    if alike:
        result |= _tables(budget)
    if plot is not None:
        if not alike:
            what = "rounds of correlated noise differ in price, and have no such curve"
            raise ConfigError.of("QRES-E105", "--plot", what)
        _plot(budget, plot)
    click.echo(json.dumps(result, indent=2) if as_json else "\n".join(_told(result, unit)))
