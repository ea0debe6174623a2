"""Exhibits of plugins that are not installed are left out, and the commands say which."""

from __future__ import annotations

import pytest
from click.testing import CliRunner
from qres_lab import exhibits
from qres_lab.commands.attack import command
from qres_lab.gallery.entries import find, gallery

from qres_core.errors import LabError

OF_ZK = {"bad_proofs", "lying_aggregator"}


@pytest.fixture
def _without_zk(monkeypatch: pytest.MonkeyPatch) -> None:
    there = exhibits._installed
    monkeypatch.setattr(exhibits, "_installed", lambda name: name != "qres-zk" and there(name))


@pytest.mark.usefixtures("_without_zk")
def test_they_are_left_out_and_named() -> None:
    assert exhibits.lacking() == {"zk": ("qres-zk",)}
    assert not gallery().keys() & OF_ZK
    assert "left_out" in gallery()  # of another plugin
    with pytest.raises(LabError, match=r"QRES-E801.*'bad_proofs'[\s\S]*need qres-zk"):
        find("bad_proofs")
    assert "qres-zk not installed" in CliRunner().invoke(command, ["list"]).output


def test_control_with_the_plugin_they_are_there() -> None:
    assert exhibits.lacking() == {}
    assert gallery().keys() >= OF_ZK
    assert find("bad_proofs").name == "bad_proofs"
    assert "not installed" not in CliRunner().invoke(command, ["list"]).output


def test_no_distribution_has_the_name_of_nobody() -> None:
    assert not exhibits._installed("qres-nobody")
