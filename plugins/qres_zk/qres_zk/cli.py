"""``qres zk``: compile ahead of the first round, and say what a bound means."""

from __future__ import annotations

import time

import click

from qres_core.errors import ConfigError
from qres_zk.group import accelerated
from qres_zk.selftest import compare_engines
from qres_zk.slack import PROJECTIONS, SECURITY, factor
from qres_zk.warming import warmup as warm


@click.group("zk")
def zk() -> None:
    """Zero-knowledge proofs about updates."""


@zk.command("warmup")
def warmup() -> None:
    """Compile the group engine now, so that the first round need not wait for it.

    Every kernel is compared with plain Python's, and a proof is made and checked. Without numba
    there is nothing to compile; the rest is done all the same.
    """
    started = time.perf_counter()
    compare_engines()
    warm()
    engine = "numba" if accelerated() else "Python (install qres-zk[fast] for numba's)"
    click.echo(f"engine: {engine}; ready after {time.perf_counter() - started:.1f} s")


@zk.command("slack")
@click.option("--bound", type=float, default=1.0, help="plugins.zk.bound, in the model's units.")
def slack(bound: float) -> None:
    """For each k and security: the norm that honest updates are clipped to."""
    if not bound > 0:
        raise ConfigError.of("QRES-E105", "--bound", f"must be above 0, got {bound}")
    click.echo(f"{'k':>5} {'security':>9} {'sigma':>7} {'honest norm':>12}")
    for k in PROJECTIONS:
        for security in SECURITY:
            sigma = factor(k, security)
            click.echo(f"{k:5d} {security:9d} {sigma:7.3f} {bound / sigma:12.6g}")
