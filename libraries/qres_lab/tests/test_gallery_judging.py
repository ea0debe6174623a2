"""What decides an exhibit, what is told of it, and which exhibits of others are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from qres_lab import AttackFamily, GalleryEntry, GalleryOutcome
from qres_lab.gallery import entries
from qres_lab.gallery.entries import gallery, load
from qres_lab.gallery.run import _decided
from qres_lab.gallery.swarm import (
    accuracy,
    admitted,
    backdoor,
    honest_banned,
    merged,
    noticed,
    unbanned,
)

from qres_core.errors import PluginError
from qres_core.kernel.discovery import Installed, Status
from qres_core.lab.record import RoundRecord


def record(**changes: Any) -> RoundRecord:
    return RoundRecord(**{"number": 1, "closed": True, **changes})


def played(*rounds: RoundRecord, **changes: Any) -> Any:
    """A run of which a judge is told so much; ``finals`` are the last figures."""
    finals = changes.pop("finals", {})
    result = SimpleNamespace(
        **{
            "rounds": rounds,
            "closed": [made for made in rounds if made.closed],
            "void": [made for made in rounds if made.void],
            "aborted": [made for made in rounds if made.outcome.startswith("aborted")],
            "injected": {},
            "attack": "flood",
            "attackers": 3,
            "unanimous": True,
            "final": finals.get,
            **changes,
        }
    )
    return SimpleNamespace(result=result)


def test_accuracy_is_the_last_and_aborted_rounds_are_told() -> None:
    run = played(record(), record(closed=False), finals={"accuracy": 0.7})
    assert accuracy(run) == ("accuracy", 0.7, None, "1 rounds aborted")
    void = record(closed=False, void=True, reason="refused")
    assert (
        accuracy(played(record(closed=False), void, void))[3] == "1 rounds aborted, 2 rounds void"
    )
    assert accuracy(played(record()))[1:] == (0.0, None, "")
    assert backdoor(played(finals={"backdoor": 0.3}))[1:3] == (0.3, 0.2)


def test_what_honest_nodes_took_in_is_a_share_of_what_was_injected() -> None:
    run = played(injected={"admitted": 1, "replayed": 2, "banned": 1})
    assert admitted(0.1)(run)[1:] == (0.25, 0.1, "1 of 4 injected messages were taken in")
    assert unbanned(run)[1:3] == (0.75, 0.1)
    assert admitted(0.1)(played())[1] == unbanned(played())[1] == 0.0


def test_attackers_in_the_last_two_models_count_and_disagreement_is_told() -> None:
    counts = [record(attackers_accepted=count) for count in (9, 2, 1)]
    assert merged(played(*counts))[1:] == (2.0, 0.0, "all honest nodes hold one model")
    assert merged(played(unanimous=False))[1:] == (0.0, 0.0, "MODELS DIFFER")
    assert honest_banned(played(record(banned_honest=2), record()))[1] == 2.0
    assert honest_banned(played())[1] == 0.0


def test_who_noticed_an_attack_is_told_most_frequent_first() -> None:
    run = played(
        record(rejected={"replayed": 2}, closed=False, reason="no quorum"),
        record(rejected={"replayed": 1}, banned_attackers=2, banned_honest=1),
        injected={"admitted": 9, "bad-signature": 7},
    )
    assert noticed(run) == (
        "refused: bad-signature (7)",
        "refused: replayed (3)",
        "banned: 2 of 3 attackers",
        "BANNED: 1 honest nodes",
        "aborted: no quorum (1)",
    )
    void = record(closed=False, void=True, reason="refused (QRES-E508)")
    assert noticed(played(void, attack="")) == ("void: refused (QRES-E508) (1)",)
    assert noticed(played(record(rejected={"late": 5}), attack="")) == ()


# ── against a baseline ────────────────────────────────────────────────────────────────────────────


def entry(name: str, family: AttackFamily, baseline: str = "") -> GalleryEntry:
    plays: Any = {"nothing": None, "median": None}
    return GalleryEntry(
        name=name, family=family, summary="s", aim="a", plays=plays, baseline=baseline
    )


def outcome(defence: str, value: float, **changes: Any) -> tuple[GalleryOutcome, float]:
    made = GalleryOutcome(defence=defence, measure="accuracy", value=value)
    return attrs.evolve(made, **changes), 0.5


def test_what_the_defence_costs_by_itself_is_no_merit_of_the_attack() -> None:
    found = {
        ("clean", "nothing"): outcome("nothing", 0.9),
        ("clean", "median"): outcome("median", 0.7),
        ("flip", "nothing"): outcome("nothing", 0.1),
        ("flip", "median"): outcome("median", 0.68),
    }
    quiet = _decided(entry("clean", AttackFamily.CLEAN), found)
    assert [made.fate.name for made in quiet.outcomes] == ["BASELINE", "BASELINE"]
    assert quiet.outcomes[1].price == 0.2
    assert quiet.outcomes[1].reason == (
        "20.0 points go to the defence itself, with nobody attacking"
    )
    bare, median = _decided(entry("flip", AttackFamily.POISONING, "clean"), found).outcomes
    assert (bare.fate.name, median.fate.name) == ("FAILED", "HELD")
    assert median.reason.startswith("+2.0 points lost to the same swarm without attackers; 20.0")


def test_a_defence_that_was_not_played_is_left_out_and_a_failure_has_a_reason() -> None:
    failed = GalleryOutcome.judged("median", "messages taken in", 0.25, 0.1)
    shown = _decided(entry("x", AttackFamily.PROTOCOL), {("x", "median"): (failed, 0.5)})
    assert [made.reason for made in shown.outcomes] == ["0.25, more than 0.1: messages taken in"]
    assert shown.seconds == (0.5,)


# ── exhibits of other distributions ───────────────────────────────────────────────────────────────


class EntryPoint:
    """Loads what it is given, or raises it."""

    def __init__(self, loaded: object) -> None:
        self.loaded = loaded

    def load(self) -> object:
        if isinstance(self.loaded, BaseException):
            raise self.loaded
        return self.loaded


def installed(loaded: object, status: Status = Status.INSTALLED) -> Installed:
    point: Any = EntryPoint(loaded)
    return Installed(
        "other", "qres-other", "1.0", "other:ENTRIES", status=status, entry_point=point
    )


MINE = entry("mine", AttackFamily.PRIVACY)


def test_an_exhibit_alone_or_several_are_loaded() -> None:
    assert load(installed(MINE)) == [MINE]
    assert load(installed((MINE, MINE))) == [MINE, MINE]


@pytest.mark.parametrize(
    ("origin", "code", "said"),
    [
        (installed(MINE, Status.INCOMPATIBLE), "QRES-E203", "pip install -U qres-other qres-core"),
        (installed(MINE, Status.CONFLICT), "QRES-E204", "pip uninstall all except one"),
        (installed(MINE, Status.MISPLACED), "QRES-E205", "remove that folder"),
        (installed(ImportError("no numpy")), "QRES-E202", "import failed: ImportError: no numpy"),
        (installed(SystemExit(3)), "QRES-E202", "import failed: SystemExit: 3"),
        (installed("a string"), "QRES-E206", "'a string' is no GalleryEntry"),
        (installed([MINE, None]), "QRES-E206", "None is no GalleryEntry"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_distribution(
    origin: Installed, code: str, said: str
) -> None:
    with pytest.raises(PluginError) as caught:
        load(origin)
    assert caught.value.code == code
    assert said in str(caught.value)
    assert "qres-other" in str(caught.value)


def test_an_exhibit_whose_name_is_taken_is_refused_with_all_other_faults(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = {
        "first": installed([MINE]),
        "again": installed([MINE]),
        "broken": installed(ImportError("x")),
    }
    monkeypatch.setattr(entries, "scan", lambda **_group: found)
    with pytest.raises(PluginError) as caught:
        gallery()
    assert [problem.code for problem in caught.value.problems] == ["QRES-E204", "QRES-E202"]
    assert "the exhibit 'mine' is there already" in str(caught.value)


def test_exhibits_of_others_are_shown_by_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "scan", lambda **_group: {"first": installed([MINE])})
    families = [made.family for made in gallery().values()]
    order = list(AttackFamily)
    assert families == sorted(families, key=order.index)
    assert gallery()["mine"] is MINE
