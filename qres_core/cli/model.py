"""``qres model``: get a swarm's model out, and check that the swarm decided it."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from qres_core.cli.options import read_config
from qres_core.contract.errors import ModelError


@click.group("model")
def command() -> None:
    """Get a swarm's model out, and check that the swarm decided it."""


@command.command("export")
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    required=True,
    help="The node's node.data_dir, or its folder node-K of `qres swarm up`.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="File to write, model.npz or model.safetensors. An existing one is not overwritten.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(*, folder: Path, out: Path, as_json: bool) -> None:
    """Write the newest model of a node, with the votes that decided it.

    The node may be running or stopped. numpy alone reads model.npz: `model` (float64), `vector`
    (int32, on the grid), `step`, `scale`, `swarm`, and `certificate`, the signed votes.

    Exit code 0 if the file was written, 2 if not.
    """
    from qres_core.swarm.storage.model_file import check_writable, kept_model  # noqa: PLC0415 - numpy

    check_writable(out)
    model = kept_model(folder)
    model.save(out)
    if as_json:
        report = {
            "file": str(out),
            "swarm": model.swarm,
            "step": model.step,
            "scale": model.scale,
            "coordinates": int(model.vector.size),
            "model_digest": model.digest.hex(),
            "vouchers": [voucher.sender.hex() for voucher in model.vouchers],
        }
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(
        f"{out}: model {model.step} of {model.swarm}, {model.digest.hex()[:16]}, "
        f"{model.vector.size} coordinates, decided by {len(model.vouchers)} votes"
    )


@command.command("verify")
@click.argument("file", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--roster",
    type=click.Path(path_type=Path),
    required=True,
    help="A configuration with [swarm] name, nodes, byzantine, quorum, scale and roster, and the "
    "plugins that authenticate its messages: that of any node, or one with no more than these.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(file: Path, *, roster: Path, as_json: bool) -> None:
    """Check that a swarm decided the model in FILE. Needs no network and no key.

    As many nodes of the roster as decide a vote, more than (nodes + byzantine) / 2, must have
    signed one decision for this vector at this step, in this swarm. Then, given at most
    swarm.byzantine liars, the swarm has no other model of this step, and at least one honest node
    computed this one. It does not say that the model is good.

    Exit code 0 if the model is believed, 1 if not, 2 if FILE is not
    there or the roster's file is refused.
    """
    from qres_core.swarm.context.model_proof import verify as check  # noqa: PLC0415
    from qres_core.swarm.storage.model_file import SwarmModel  # noqa: PLC0415 - numpy

    config = read_config(roster)
    try:
        model = SwarmModel.load(file)
        proof = check(model, config, time.time())
    except ModelError as error:
        problem = error.problems[0]
        if as_json:
            report = {"ok": False, "code": problem.code, "what": problem.what, "fix": problem.fix}
            click.echo(json.dumps(report, indent=2))
        else:
            click.echo(f"refused: {problem}", err=True)
        sys.exit(1)
    if as_json:
        report = {
            "ok": True,
            "swarm": model.swarm,
            "step": proof.step,
            "model_digest": proof.digest.hex(),
            "vouchers": proof.vouchers,
            "needed": proof.needed,
            "nodes": proof.nodes,
            "byzantine": proof.byzantine,
        }
        click.echo(json.dumps(report, indent=2))
        return
    click.echo(
        f"model {proof.step} of {model.swarm}, {proof.digest.hex()[:16]}: decided by "
        f"{proof.vouchers} of {proof.nodes} nodes, of which {proof.byzantine} may lie"
    )
