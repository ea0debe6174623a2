"""The privacy report: its numbers are those of plan and ledger, and the page is for anybody."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from click.testing import CliRunner, Result
from qres_dp import accounting
from qres_dp.account import PrivacyAccount
from qres_dp.cli import dp
from qres_dp.ledger import Owner, PrivacyBudget, PrivacyLedger
from qres_dp.ledger.record import Charge
from qres_dp.ledger.store import FILE
from qres_dp.places import ledger_place
from qres_dp.report import hits
from qres_dp.report_page import (
    Bullets,
    Heading,
    Paragraph,
    ReportTable,
    html,
    markdown,
)

from qres_core import NodeId
from qres_core.errors import QresError

NODE = NodeId(bytes([7]) * 32)
SWARM = """
[swarm]
name = "hospitals"
nodes = 20
byzantine = 0
quorum = 16
insecure = true

[node]
data_dir = "{folder}"

[plugins.memory]

[plugins.mean]
unprotected = true

[plugins.dp]
mode = "local"
clip = 0.5
delta = 1e-5
epsilon = 4.0
rounds = 60
"""
Z = accounting.calibrate(4.0, 1e-5, 60)


def charge(number: int, **fields: Any) -> Charge:
    usual: dict[str, Any] = {
        "swarm": "hospitals",
        "node": NODE,
        "journal": bytes(16),
        "height": number,
        "round": number,
        "head": bytes(32),
        "mode": "local",
        "relation": "replace-one",
        "unit": "node",
        "noise_multiplier": Z,
        "sampling_rate": 1.0,
        "bound": 2**15,
        "scale": 0,
        "dimension": 650,
        "nodes": 20,
        "honest": 1,
    }
    return Charge(**{**usual, **fields})


def fill(
    folder: Path, *charges: Charge, relation: str = "replace-one", owner: Owner | None = None
) -> None:
    folder.mkdir(exist_ok=True)
    ledger = PrivacyLedger.begin(folder, owner or Owner("hospitals", NODE, relation, "node"))
    for item in charges:
        ledger.charge(item, PrivacyBudget(40.0, 1e-5))
    ledger.close()


def config(folder: Path) -> Path:
    path = folder / "swarm.toml"
    path.write_text(SWARM.format(folder=folder / "data"), encoding="utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(dp, ["report", *(str(argument) for argument in arguments)])


def data(*arguments: object, code: int = 0) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.output)


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, QresError), result.output
    return result.exception.code


# ── the numbers ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-6")
def test_the_report_says_what_was_promised_spent_and_left(tmp_path: Path) -> None:
    fill(tmp_path / "data", *(charge(number) for number in range(1, 21)))
    found = data(config(tmp_path), "--dimension", 650)
    spent = found["spent"]
    assert spent["epsilon"] == accounting.epsilon(Z, 20, 1e-5)
    assert spent["left"] == 4.0 - spent["epsilon"]
    assert spent["rounds_left"] == 40
    assert spent["groups"][0]["epsilon"] == PrivacyAccount({Z: 20}, 1e-5).of_group(2)
    assert found["plan"]["epsilon"] <= 4.0
    assert found["ledger"]["holds"]
    assert found["ledger"]["records"] == 20
    assert found["audit"] is None


def test_what_was_spent_is_told_by_swarm_and_mechanism(tmp_path: Path) -> None:
    fill(
        tmp_path / "data",
        *(charge(number) for number in range(1, 4)),
        charge(7, swarm="lungs", noise_multiplier=9.0, mode="distributed", honest=12),
        charge(8, swarm="lungs", noise_multiplier=9.0, mode="distributed", honest=12),
        charge(9, swarm="lungs", noise_multiplier=30.0, stream=bytes(range(32))),
        charge(10, swarm="lungs", noise_multiplier=40.0, stream=bytes(range(32)), row=1),
    )
    found = data(config(tmp_path), "--dimension", 650)
    rows = found["spent"]["on"]
    told = [(row["swarm"], row["mode"], row["noise"], row["releases"]) for row in rows]
    assert told == [
        ("hospitals", "local", "independent", 3),
        ("lungs", "distributed", "independent", 2),
        ("lungs", "local", "correlated", 2),
    ]
    assert [(row["first_round"], row["last_round"]) for row in rows] == [(1, 3), (7, 8), (9, 10)]
    assert rows[1]["epsilon"] == accounting.epsilon(9.0, 2, 1e-5)
    assert found["spent"]["epsilon"] < sum(row["epsilon"] for row in rows)
    text = run(config(tmp_path), "--dimension", 650).output
    assert "distributed, independent noise, z 9, 12 shares" in text


def test_a_data_set_is_reported_with_all_swarms_that_share_it(tmp_path: Path) -> None:
    owner = Owner.of_data_set("replace-one", "node")
    fill(tmp_path / "set", charge(1), charge(1, swarm="lungs", node=bytes(32)), owner=owner)
    path = config(tmp_path)
    dataset = f'dataset = "{tmp_path / "set"}"\n'
    path.write_text(path.read_text(encoding="utf-8") + dataset, encoding="utf-8")
    found = data(path, "--dimension", 650)
    assert [row["swarm"] for row in found["spent"]["on"]] == ["hospitals", "lungs"]
    assert found["spent"]["epsilon"] == accounting.epsilon(Z, 2, 1e-5)
    assert "releases of other swarms or modes" in run(path, "--dimension", 650).output


def test_a_guess_finds_no_more_than_the_best_test_of_two_normals() -> None:
    """Neyman and Pearson: the likelihood ratio test of N(0, 1) against N(mu, 1)."""
    account = PrivacyAccount({2.0: 1}, 1e-9)
    cut = NormalDist().inv_cdf(0.95)
    assert hits(account) == pytest.approx(1.0 - NormalDist(0.5).cdf(cut), rel=1e-9)


# ── the page ──────────────────────────────────────────────────────────────────────────────────


class Tags(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "data", charge(1))
    page = tmp_path / "privacy.html"
    assert run(config(tmp_path), "--dimension", 650, "--output", page).exit_code == 0
    tags = Tags(page.read_text(encoding="utf-8"))
    names = {name for name, _ in tags.seen}
    assert {"h1", "h2", "table", "ul", "p"} <= names
    assert not names & {"script", "img", "link", "iframe", "a", "form"}
    assert not any(
        key in {"src", "href"} or key[:2] == "on" for _, keys in tags.seen for key in keys
    )
    assert "Privacy report: hospitals" in tags.text
    assert refused(config(tmp_path), "--dimension", 650, "--output", page) == "QRES-E803"


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    fill(tmp_path / "data", charge(1))
    text = run(config(tmp_path), "--dimension", 650).output
    page = tmp_path / "privacy.html"
    run(config(tmp_path), "--dimension", 650, "--output", page)
    seen = " ".join(Tags(page.read_text(encoding="utf-8")).text.split())
    for line in text.splitlines():
        if line and not line.startswith(("|", "Made on ")):  # at another second
            assert line.lstrip("#- ").replace("\\", "") in seen
    for title in ("Trust", "Mechanism", "Spending", "Ledger", "Audit", "Limits"):
        assert f"## {title}" in text


def test_names_are_text_and_no_markup() -> None:
    """What comes from a file cannot put links, columns or scripts into the page."""
    evil = "<script>x</script> [a](http://b) | `c` *d*"
    parts = [Heading(evil), Paragraph(evil), Bullets((evil,)), ReportTable(("h",), ((evil,),))]
    assert "<script" not in html(parts)
    text = markdown(parts)
    assert "\\<script\\>" in text
    assert "\\[a\\](http://b) \\| \\`c\\`" in text


# ── what it refuses, and what it says ─────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-6")
def test_a_ledger_that_does_not_hold_is_said_and_nothing_is_claimed(tmp_path: Path) -> None:
    fill(tmp_path / "data", charge(1), charge(2))
    (tmp_path / "data" / FILE).unlink()
    found = data(config(tmp_path), "--dimension", 650, code=1)
    assert found["spent"] is None
    assert not found["ledger"]["holds"]
    assert "QRES-E602" in found["ledger"]["problem"]
    result = run(config(tmp_path), "--dimension", 650)
    assert result.exit_code == 1
    assert "not known: the ledger does not hold" in result.output


def test_a_ledger_of_other_neighbours_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data", relation="add-remove")
    assert refused(config(tmp_path), "--dimension", 650) == "QRES-E602"


def test_nothing_spent_is_said(tmp_path: Path) -> None:
    fill(tmp_path / "data")
    result = run(config(tmp_path), "--dimension", 650)
    assert result.exit_code == 0
    assert "Nothing has left this node yet" in result.output


def test_the_ledger_of_a_node_is_found_below_the_folder_of_the_configuration(
    tmp_path: Path,
) -> None:
    (tmp_path / "data").mkdir()
    fill(tmp_path / "data" / NODE.hex(), charge(1))
    assert data(config(tmp_path), "--dimension", 650)["ledger"]["records"] == 1
    shown = CliRunner().invoke(dp, ["ledger", str(config(tmp_path))])
    assert "1 releases" in shown.output
    fill(tmp_path / "data" / bytes(32).hex(), charge(1))
    assert refused(config(tmp_path), "--dimension", 650) == "QRES-E105"
    assert ledger_place(tmp_path / "no") == tmp_path / "no"


def test_an_audit_is_told_and_decides(tmp_path: Path) -> None:
    fill(tmp_path / "data", charge(1))
    path = tmp_path / "audit.json"
    path.write_text(json.dumps({"runs": 3, "alarms": 0, "missed": []}), encoding="utf-8")
    arguments = (config(tmp_path), "--dimension", 650, "--audit", path)
    result = run(*arguments)
    assert result.exit_code == 0
    assert "The audit passed: 0 alarms in 3 runs" in result.output
    assert "No faults were put into the software" in result.output
    told: dict[str, object] = {"runs": 3, "alarms": 0, "missed": [], "faults": [{}, {}]}
    path.write_text(json.dumps(told), encoding="utf-8")
    assert "Of 2 faults put into the software on purpose, 0 were" in run(*arguments).output
    path.write_text(json.dumps({"runs": 3, "alarms": 1, "missed": []}), encoding="utf-8")
    result = run(*arguments)
    assert result.exit_code == 1
    assert "The audit FAILED" in result.output
    for junk in (
        "{",
        "[]",
        '{"runs": "3"}',
        '{"runs": 3, "alarms": 0, "missed": [], "faults": 2}',
        "[" * 100_000,
    ):
        path.write_text(junk, encoding="utf-8")
        assert refused(*arguments) == "QRES-E101"


def test_a_report_needs_a_folder_and_a_known_ending(tmp_path: Path) -> None:
    path = config(tmp_path)
    assert refused(path, "--output", tmp_path / "x.pdf") == "QRES-E105"
    text = path.read_text(encoding="utf-8").replace("data_dir", "# data_dir")
    path.write_text(text, encoding="utf-8")
    assert refused(path, "--dimension", 650) == "QRES-E103"
    fill(tmp_path / "elsewhere", charge(1))
    ledger = tmp_path / "elsewhere"
    assert data(path, "--dimension", 650, "--ledger", ledger)["ledger"]["records"] == 1


# ── no sentence promises what is not so ───────────────────────────────────────────────────────


def test_a_guess_is_about_what_the_neighbours_differ_in(tmp_path: Path) -> None:
    """In mode local everybody sees that a node took part: the promise is about its data."""
    fill(tmp_path / "data", charge(1))
    path = config(tmp_path)
    text = run(path, "--dimension", 650).output
    assert "no easier to tell which of two candidates the data of a node are than" in text
    assert "took part" not in text
    (tmp_path / "data" / FILE).unlink()  # of another relation
    changed = path.read_text(encoding="utf-8") + 'unit = "record"\nrecords = 9\n'
    path.write_text(changed, encoding="utf-8")
    assert "guesses whether a record took part" in run(path, "--dimension", 650).output


def test_what_others_were_charged_is_not_told(tmp_path: Path) -> None:
    """This node's ledger does not know what left other nodes of the same owner."""
    path = config(tmp_path)
    fill(tmp_path / "data", charge(1))
    assert "if none was charged more than this" in run(path, "--dimension", 650).output
