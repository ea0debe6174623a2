"""Playing exhibits, in processes of their own, and what a whole gallery came to."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

import attrs

from qres_core.contract.errors import LabError
from qres_core.contract.suggest import did_you_mean
from qres_lab.exhibit import (
    AttackFamily,
    AttackOutcome,
    GalleryEntry,
    GalleryOutcome,
    GallerySetting,
)
from qres_lab.gallery.defences import NOTHING, STACKS
from qres_lab.gallery.entries import find, gallery
from qres_lab.gallery.randomness import replayed

Job = tuple[str, str]
"""Names of an exhibit and of a defence."""
_SKIPPED: Final = frozenset(STACKS[1:])
"""Defences that a quick gallery leaves out."""


@attrs.frozen
class Shown:
    """An exhibit with what it came to."""

    entry: GalleryEntry  # the exhibit
    outcomes: tuple[GalleryOutcome, ...]  # one for each defence
    seconds: tuple[float, ...]  # processor time of each outcome


def play(job: Job, setting: GallerySetting) -> tuple[GalleryOutcome, float]:
    """Play one exhibit against one defence; its outcome and processor seconds."""
    name, defence = job
    started = time.process_time()
    with replayed(f"{setting.seed}/{name}/{defence}"):
        outcome = find(name).plays[defence](setting)
    return outcome, time.process_time() - started


def _jobs(
    entries: Sequence[GalleryEntry], setting: GallerySetting, against: Collection[str]
) -> list[Job]:
    """Jobs to play: nothing and the defences ``against``, or all if that is empty."""
    known = dict.fromkeys(defence for entry in entries for defence in entry.plays)
    for name in against:
        if name not in known:
            what, hint = f"no defence {name!r}", did_you_mean(name, known)
            raise LabError.of("QRES-E801", "qres attack", what, hint)
    return [
        (entry.name, defence)
        for entry in entries
        for defence in entry.plays
        if not (setting.quick and defence in _SKIPPED)
        and (not against or defence == NOTHING or defence in against)
    ]


def with_baselines(names: Sequence[str]) -> list[GalleryEntry]:
    """The exhibits and those without attack that they are compared with; all for no names."""
    known = gallery()
    chosen = {name: find(name) for name in names} if names else dict(known)
    needed = {item.baseline for item in chosen.values() if item.baseline}
    return [item for name, item in known.items() if name in chosen or name in needed]


def play_all(
    names: Sequence[str],
    setting: GallerySetting,
    *,
    against: Collection[str] = (),
    processes: int = 1,
    progress: Callable[[int, int, Job], None] | None = None,
) -> tuple[Shown, ...]:
    """Play exhibits and decide them.

    Args:
        names: of exhibits; none for all.
        setting: seed and size.
        against: defences, beside none at all; empty for all.
        processes: played at once; the result does not depend on it.
        progress: called with how many are done, of how many, and the last one.

    Returns:
        the exhibits in the gallery's order, each decided by its baseline where it has one.

    Raises:
        LabError: QRES-E801 for an unknown exhibit or defence, QRES-E802 where something is not
            installed.
    """
    entries = with_baselines(names)
    jobs = _jobs(entries, setting, against)
    found: dict[Job, tuple[GalleryOutcome, float]] = {}

    def note(job: Job, result: tuple[GalleryOutcome, float]) -> None:
        found[job] = result
        if progress is not None:
            progress(len(found), len(jobs), job)

    if processes == 1:
        for job in jobs:
            note(job, play(job, setting))
    else:
        # A fresh interpreter each: nothing of one exhibit can be left for another.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            try:
                with _ctrl_c_held_back():
                    results = [pool.submit(play, job, setting) for job in jobs]
                for job, result in zip(jobs, results, strict=True):
                    note(job, result.result())
            except KeyboardInterrupt:
                for worker in multiprocessing.active_children():
                    worker.terminate()  # what is under way takes minutes
                raise
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return tuple(_decided(entry, found) for entry in entries)


@contextmanager
def _ctrl_c_held_back() -> Generator[None]:
    """Processes that are started here never get ctrl-C; this one gets it afterwards.

    The mask is for them: they inherit it. Here any other thread may take the signal, and Python
    then runs the handler in this one whatever it masks, so the handler waits too.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    came: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handler = (
        signal.signal(signal.SIGINT, lambda number, _frame: came.append(number)) if main else None
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if main:
            signal.signal(signal.SIGINT, handler)
    if came:
        signal.raise_signal(signal.SIGINT)


def _decided(entry: GalleryEntry, found: Mapping[Job, tuple[GalleryOutcome, float]]) -> Shown:
    outcomes: list[GalleryOutcome] = []
    seconds: list[float] = []
    for defence in entry.plays:
        if (entry.name, defence) not in found:
            continue
        outcome, took = found[entry.name, defence]
        clean = entry.name if entry.family is AttackFamily.CLEAN else entry.baseline
        if clean and outcome.fate is not AttackOutcome.IMPOSSIBLE:
            quiet = found[clean, defence][0]
            price = round(found[clean, NOTHING][0].value - quiet.value, 6)
            outcome = attrs.evolve(outcome, price=price)
            if entry.baseline:
                outcome = entry.against(outcome, quiet)
            else:
                outcome = attrs.evolve(outcome, fate=AttackOutcome.BASELINE)
            if outcome.costly:
                told = f"{100 * price:.1f} points go to the defence itself, with nobody attacking"
                reason = "; ".join(filter(None, (outcome.reason, told)))
                outcome = attrs.evolve(outcome, reason=reason)
        if outcome.fate is AttackOutcome.FAILED and not outcome.reason:
            limit = "" if outcome.limit is None else f", more than {outcome.limit:g}"
            outcome = attrs.evolve(outcome, reason=f"{outcome.value:.3g}{limit}: {outcome.measure}")
        outcomes.append(outcome)
        seconds.append(took)
    return Shown(entry, tuple(outcomes), tuple(seconds))


def failures(shown: Iterable[Shown]) -> tuple[tuple[str, GalleryOutcome], ...]:
    """Defences that did not hold, by exhibit; what nothing defends is none."""
    return tuple(
        (item.entry.name, outcome)
        for item in shown
        for outcome in item.outcomes
        if outcome.fate is AttackOutcome.FAILED and not outcome.control
    )


def to_json(
    shown: Iterable[Shown], setting: GallerySetting, *, costs: bool = False
) -> dict[str, Any]:
    """Plain data. Without ``costs`` the same seed gives the same data, bit by bit."""
    rows: list[dict[str, Any]] = []
    for item in shown:
        played: list[dict[str, Any]] = []
        for outcome, seconds in zip(item.outcomes, item.seconds, strict=True):
            row = attrs.asdict(outcome, filter=lambda field, _value: field.name != "octets")
            row["fate"] = outcome.fate.value
            if costs:
                row["costs"] = {"cpu_seconds": round(seconds, 3), "bytes": outcome.octets}
            played.append(row)
        entry = item.entry
        rows.append(
            {
                "name": entry.name,
                "family": entry.family.value,
                "summary": entry.summary,
                "succeeds_if": entry.aim,
                "outcomes": played,
            }
        )
    return {"seed": setting.seed, "quick": setting.quick, "entries": rows}
