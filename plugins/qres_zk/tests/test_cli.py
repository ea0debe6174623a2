"""``qres zk``."""

from __future__ import annotations

from click.testing import CliRunner
from qres_zk.cli import zk
from qres_zk.slack import factor


def test_warmup_says_which_engine_runs() -> None:
    result = CliRunner().invoke(zk, ["warmup"])
    assert result.exit_code == 0, result.output
    assert "engine: " in result.output


def test_slack_prints_the_table() -> None:
    result = CliRunner().invoke(zk, ["slack", "--bound", "8"])
    assert result.exit_code == 0, result.output
    assert len(result.output.splitlines()) == 10
    sigma = factor(256, 128)
    assert f"  256       128 {sigma:7.3f} {8 / sigma:12.6g}" in result.output
    refused = CliRunner().invoke(zk, ["slack", "--bound", "0"])
    assert "QRES-E105" in str(refused.exception)
