"""The attack gallery: what is in it, what it decides, and that it gives the same bits again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from click.testing import CliRunner
from qres_lab.commands.attack import command
from qres_lab.exhibit import (
    AttackFamily,
    AttackOutcome,
    GalleryEntry,
    GalleryOutcome,
    GallerySetting,
)
from qres_lab.gallery import run
from qres_lab.gallery.defences import DEFENCES, NOTHING, SINGLE, STACKS
from qres_lab.gallery.entries import _LABORATORY, NOT_SHOWN, find, gallery, load
from qres_lab.gallery.page import render
from qres_lab.gallery.randomness import replayed
from qres_lab.gallery.run import failures, play, play_all, to_json

from qres_core.attacks import catalogue, sabotages
from qres_core.contract.errors import LabError, PluginError
from qres_core.kernel.discovery import Installed

QUICK = GallerySetting(seed=1, quick=True)
POISONING = {
    "sign_flip", "scaled", "alie", "ipm", "min_max", "min_sum", "mimic", "label_flip", "backdoor",
}  # fmt: skip
SEARCHED = {
    "backdoor_hidden", "backdoor_aside", "optimised_alie", "optimised_ipm", "searched", "cancel",
    "mirror", "drift", "aside", "bad_faith",
}  # fmt: skip
"""Lies that are worked out on the aggregation itself, or beside proposals in bad faith."""
PROTOCOL = {
    "replay", "forge", "impersonate", "sybil", "unauthorized", "equivocate", "flood", "sleeper",
    "slander", "double_vote", "history",
}  # fmt: skip
OF_PLUGINS = {
    "membership", "two_rounds", "aggregator_equivocation", "bad_proofs", "lying_aggregator",
    "abort_after_opening", "left_out", "withholding", "bad_dealer", "colluders_in_a_group",
    "redraws",
}  # fmt: skip


def test_the_list_is_complete() -> None:
    known = gallery()
    assert set(known) >= POISONING | PROTOCOL | OF_PLUGINS
    for entry in known.values():
        assert next(iter(entry.plays)) == NOTHING
        assert entry.baseline == "" or set(entry.plays) <= set(known[entry.baseline].plays)
    for name in POISONING | PROTOCOL:
        assert STACKS[0] in known[name].plays
    for name in POISONING:
        assert set(STACKS) <= set(known[name].plays)
    for name in SEARCHED:
        assert set(known[name].plays) == set(SINGLE)


def test_every_attack_of_the_laboratory_is_shown_or_has_a_reason_why_not() -> None:
    plays: list[Any] = [play for entry in _LABORATORY for play in entry.plays.values()]
    attacks = [play.func.__self__ for play in plays]
    played = {name for item in attacks for name in (item.attack, item.sabotage) if name}
    known = {*catalogue(), *sabotages()}
    assert played <= known
    assert known - played == set(NOT_SHOWN)


@pytest.mark.claim("C-composition-11")
@pytest.mark.control("C-composition-11")
def test_a_poisoning_with_its_positive_control() -> None:
    entry = find("sign_flip")
    outcomes = {}
    for defence in (NOTHING, "median"):
        outcome, seconds = play(("sign_flip", defence), QUICK)
        assert seconds > 0
        assert outcome.octets > outcome.messages > 0
        outcomes[defence] = entry.against(outcome, play((entry.baseline, defence), QUICK)[0])
    assert outcomes[NOTHING].fate is AttackOutcome.FAILED
    assert outcomes[NOTHING].control
    assert not outcomes["median"].control
    # In two rounds a median has not yet caught up with the swarm that nobody attacks.
    assert outcomes["median"].value > outcomes[NOTHING].value + 0.3


@pytest.mark.long
def test_a_protocol_attack_with_its_positive_control() -> None:
    bare, signed = (play(("impersonate", item), QUICK)[0] for item in (NOTHING, "signatures"))
    assert bare.fate is AttackOutcome.FAILED
    assert signed.fate is AttackOutcome.HELD
    assert any("bad-signature" in item for item in signed.detected)


@pytest.mark.claim("C-reputation-2")
def test_reputation_that_anybody_could_slander_is_not_started() -> None:
    outcome, _seconds = play(("slander", "reputation, unsigned"), QUICK)
    assert outcome.fate is AttackOutcome.IMPOSSIBLE
    assert "QRES-E305" in outcome.reason


@pytest.mark.long
def test_a_stack_with_noise_gives_the_same_bits_again() -> None:
    job = ("sign_flip", "full, one sum, dp")
    first, again = play(job, QUICK)[0], play(job, QUICK)[0]
    assert first.curve
    assert attrs.evolve(first, octets=0) == attrs.evolve(again, octets=0)


def test_noise_comes_out_the_same_and_differs_by_seed() -> None:
    job = ("membership", "dp, epsilon 8")
    first, again = play(job, QUICK)[0], play(job, QUICK)[0]
    assert first == again
    assert play(job, attrs.evolve(QUICK, seed=2))[0].value != first.value


@pytest.mark.claim("C-composition-11")
@pytest.mark.long
def test_the_same_seed_gives_the_same_json_and_page() -> None:
    made = [play_all(["two_rounds", "membership"], QUICK, processes=n) for n in (1, 2)]
    texts = [json.dumps(to_json(item, QUICK)) for item in made]
    assert texts[0] == texts[1]
    assert render(made[0], QUICK) == render(made[1], QUICK)
    assert "cpu_seconds" not in texts[0]
    assert "cpu_seconds" in json.dumps(to_json(made[0], QUICK, costs=True))


def test_a_baseline_decides() -> None:
    entry = GalleryEntry(
        name="x", family=AttackFamily.POISONING, summary="s", aim="a", plays={}, baseline="clean"
    )
    clean = GalleryOutcome(defence="d", measure="accuracy", value=0.9)
    near = entry.against(attrs.evolve(clean, value=0.86), clean)
    far = entry.against(attrs.evolve(clean, value=0.84), clean)
    assert (near.fate, far.fate) == (AttackOutcome.HELD, AttackOutcome.FAILED)
    assert "+6.0 points lost" in far.reason


def test_replayed_randomness_ends_with_the_block() -> None:
    real = os.urandom
    with pytest.raises(ZeroDivisionError), replayed("a"):
        raise ZeroDivisionError
    assert os.urandom is real
    drawn = []
    for label in ("a", "a", "b"):
        with replayed(label):
            drawn.append((os.urandom(16), os.urandom(16)))
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0][0] != drawn[0][1]


def test_an_exhibit_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match="QRES-E801"):
        find("sign_flop")
    with pytest.raises(PluginError, match="QRES-E206"):
        load(Installed("x", "dist", "1", "m:o"))


@pytest.mark.long
def test_no_failure_is_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict(gallery())
    flood = known["flood"]
    few = {name: flood.plays[name] for name in (NOTHING, "signatures", "reputation")}
    known["flood"] = attrs.evolve(flood, plays=few)  # the whole stack takes a minute
    monkeypatch.setattr(run, "gallery", lambda: known)
    monkeypatch.setattr(run, "find", known.__getitem__)
    shown = play_all(["flood", "two_rounds"], QUICK)
    reasons = {outcome.reason for _name, outcome in failures(shown)}
    assert reasons
    assert all(reasons)
    assert any("more than 0.1: injected messages" in reason for reason in reasons)


def test_defences_have_a_list_of_their_own() -> None:
    assert all(name == defence.name for name, defence in DEFENCES.items())


@pytest.mark.parametrize("processes", [1, 2])
def test_what_is_not_installed_is_refused_once(
    processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = "raise ModuleNotFoundError(\"No module named 'sklearn'\")"
    (tmp_path / "sklearn.py").write_text(missing, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # for the workers
    monkeypatch.syspath_prepend(tmp_path)  # for this process
    for name in [module for module in sys.modules if module.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(LabError) as caught:
        play_all([], QUICK, processes=processes)
    (problem,) = caught.value.problems
    assert (problem.code, problem.fix) == ("QRES-E802", "pip install scikit-learn")
    monkeypatch.undo()
    sys.modules.pop("sklearn", None)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_waits_while_workers_are_started_whichever_thread_takes_it() -> None:
    code = (
        "import os, signal, threading, time\n"
        "from qres_lab.gallery.run import _ctrl_c_held_back\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        "try:\n"
        "    with _ctrl_c_held_back():\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        time.sleep(0.2)\n"
        "        print('held back')\n"
        "    print('lost')\n"
        "except KeyboardInterrupt:\n"
        "    print('and then told')\n"
    )
    said = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False
    )
    assert said.stdout == "held back\nand then told\n"


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_the_workers_too_with_one_line(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, pathlib, sys, threading, time;"
        "from qres_core.cli.app import run\n"
        "def tell():\n"
        "    while not multiprocessing.active_children(): time.sleep(0.01)\n"
        "    print(*[one.pid for one in multiprocessing.active_children()], flush=True)\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=tell, daemon=True).start()\n"
        "    run()\n"
    )
    script = tmp_path / "run.py"
    script.write_text(code, encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), "attack", "report", "--quick", "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,  # ctrl-C reaches all processes of a terminal
    ) as process:
        assert process.stdout is not None
        workers = [int(text) for text in process.stdout.readline().split()]
        os.killpg(process.pid, signal.SIGINT)
        try:
            _out, said = process.communicate(timeout=900)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said == "interrupted\n"
    assert workers
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_command_line() -> None:
    runner = CliRunner()
    listed = json.loads(runner.invoke(command, ["list", "--json"]).stdout)
    assert {exhibit["name"] for exhibit in listed["exhibits"]} >= POISONING
    told = runner.invoke(command, ["run", "aggregator_equivocation", "--quick", "--json"])
    assert told.exit_code == 0
    fates = {
        outcome["defence"]: outcome["fate"]
        for outcome in json.loads(told.stdout)["entries"][0]["outcomes"]
    }
    assert fates["nothing"] == "FAILED"
    assert fates["secure aggregation"] == "held"
    few = ["run", "two_rounds", "--against", "secure aggregation, one model", "--quick", "--json"]
    chosen = json.loads(runner.invoke(command, few).stdout)["entries"][0]["outcomes"]
    assert [item["defence"] for item in chosen] == [NOTHING, "secure aggregation, one model"]
    unknown = runner.invoke(command, ["run", "two_rounds", "--against", "secure aggregatio"])
    assert isinstance(unknown.exception, LabError)
    assert "no defence 'secure aggregatio'" in str(unknown.exception)
    failed = runner.invoke(command, ["run", "two_rounds", "--quick", "--processes", "1"])
    assert failed.exit_code == 1
    assert "FAILED two_rounds against secure aggregation" in failed.stderr
