"""``qres torch``: a swarm's model as a state_dict, and the grid that fits a trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from qres_core import commands
from qres_core.errors import ConfigError

if TYPE_CHECKING:
    from qres_torch.trainer import TorchTrainer

_LONG = (
    ": above 2 times, honest nodes may refuse each other's sets; hold out examples that are more "
    "like those to train on, or set plugins.validated_mean.farthest = 0"
)
_PATH = click.Path(path_type=Path)


@click.group("torch")
def command() -> None:
    """Turn a model into a state_dict, and propose a grid."""


@command.command("export")
@click.argument("config", type=_PATH)
@click.argument("model", type=_PATH)
@click.argument("out", type=_PATH)
def export(config: Path, model: Path, out: Path) -> None:
    """Write MODEL, a file of `qres model export`, as safetensors with the names of state_dict.

    CONFIG names the trainer, whose module gives the names, and what does not travel. Check MODEL
    with `qres model verify` if others gave it to you. OUT must not exist.

    Exit code 0 if OUT was written, 2 if not.
    """
    from qres_torch.weights import save_weights  # noqa: PLC0415 - torch

    found = commands.read_model(model)
    trainer = _trainer(commands.trained(config).trainer, config)
    save_weights(trainer.load(found.vector, found.scale), out)
    click.echo(f"{out}: model {found.step} of {found.swarm}")


@command.command("scale")
@click.argument("config", type=_PATH)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override any key.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def scale(config: Path, *, settings: tuple[str, ...], as_json: bool) -> None:
    """Train the first node of CONFIG once, and propose swarm.scale.

    If the node has held-out examples, say how long a round of training is beside the reference that
    they give: rules that judge by a reference need both to be alike.

    Exit code 0 if the grid of CONFIG fits, 1 if another does, 2 if CONFIG is refused.
    """
    from qres_torch.scale import propose_scale  # noqa: PLC0415 - torch

    named = commands.trained(config, settings=settings)
    trainer = _trainer(named.trainer, config)
    proposal = propose_scale(trainer)
    lost = proposal.lost(named.scale)
    fits = proposal.holds(named.scale) and (lost <= 0.5 or named.scale <= proposal.scale)
    if as_json:
        report = {
            "scale": named.scale,
            "fits": fits,
            "proposed": proposal.scale,
            "lost": lost,
            "lost_with_proposed": proposal.lost(proposal.scale),
            "median_change": proposal.middling,
            "largest_weight": proposal.weight,
            "reach": proposal.reach,
        }
        click.echo(json.dumps(report, indent=2))
    else:
        click.echo(
            f"median change {proposal.middling:.2g}, largest number of the model "
            f"{proposal.weight:.2g}\n"
            f"swarm.scale = {named.scale}: {lost:.0%} of the changes vanish\n"
            f"swarm.scale = {proposal.scale}: {proposal.lost(proposal.scale):.0%} of the changes "
            "vanish"
        )
        if proposal.reach is not None:
            click.echo(
                f"a round of training is {proposal.reach:.2g} times as long as the reference of "
                f"held-out examples{_LONG if trainer.pooled and proposal.reach > 2 else ''}"
            )
        click.echo(
            "the grid fits" if fits else f"set swarm.scale = {proposal.scale}, on every node"
        )
    if not fits:
        raise SystemExit(1)


def _trainer(found: object, config: Path) -> TorchTrainer:
    from qres_torch.trainer import TorchTrainer  # noqa: PLC0415 - torch

    if not isinstance(found, TorchTrainer):
        what = f"makes a {type(found).__name__}, and this is for a TorchTrainer of qres-torch"
        raise ConfigError.of("QRES-E104", f"{config}: trainer.entry", what, "name such a trainer")
    return found
