"""Tables and progress: live on a terminal, plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from qres_core.lab.record import RoundRecord, SimulationResult


def reasons(rejected: Mapping[str, int]) -> str:
    """``4 equivocation, 1 replayed``."""
    return ", ".join(f"{count} {reason}" for reason, count in rejected.items())


def chosen(metrics: Mapping[str, float]) -> str:
    """Figure of a model that is shown: the accuracy, or else the loss, or else the first."""
    return next((name for name in ("accuracy", "loss", *metrics) if name in metrics), "")


def written(name: str, value: float) -> str:
    """A figure for people; an accuracy is a share."""
    return f"{value:.1%}" if name == "accuracy" else f"{value:.4g}"


def _figure(record: RoundRecord) -> str:
    """The figure that is shown of a round's model; empty without any."""
    name = chosen(record.metrics)
    return written(name, record.metrics[name]) if name else ""


def _row(record: RoundRecord) -> tuple[str, ...]:
    figure = _figure(record)
    spent = () if record.epsilon is None else (f"{record.epsilon:.3f}",)
    if not record.closed:
        told = reasons(record.rejected)
        ended = "void" if record.void else "aborted"
        return (str(record.number), ended, *spent, "", told, "", record.reason)
    own = record.accepted - record.attackers_accepted
    vanished = f"{record.vanished} updates vanish on the grid" if record.vanished else ""
    return (
        str(record.number),
        figure,
        *spent,
        f"{own} + {record.attackers_accepted}" if record.attackers_accepted else str(own),
        "; ".join(filter(None, (reasons(record.rejected), vanished))),
        "" if record.alignment is None else f"{record.alignment:+.2f}",
        record.model_digest[:12],
    )


class RoundTable:
    """Rounds as they end."""

    def __init__(self, title: str) -> None:
        self.table = Table(title=title, title_justify="left", title_style="bold")
        self._live: Live | None = None
        self._progress: Console | None = None

    def _head(self, record: RoundRecord) -> None:
        """The columns, once it is known which figures there are."""
        self.table.add_column("round", justify="right")
        self.table.add_column(chosen(record.metrics) or "figure", justify="right")
        if record.epsilon is not None:
            self.table.add_column("ε spent", justify="right")
        self.table.add_column("in the set (honest + attackers)", justify="right")
        self.table.add_column("rejected, why")
        self.table.add_column("toward honest", justify="right")
        self.table.add_column("model")

    def add(self, record: RoundRecord) -> None:
        """Show one more round."""
        if not self.table.columns:
            self._head(record)
        elif name := chosen(record.metrics):
            self.table.columns[1].header = name  # the rounds before it may all have been aborted
        style = None if record.closed else "yellow"
        self.table.add_row(*_row(record), style=style)
        if self._live is not None:
            self._live.refresh()
        if self._progress is not None:
            ended = _figure(record) if record.closed else record.outcome
            told = (f"round {record.number}", *filter(None, (ended,)))
            self._progress.print("  ".join(told), highlight=False, markup=False)

    @contextmanager
    def shown(self, where: Console) -> Generator[None]:
        """Show the table while rounds are added.

        In a pipe it is printed at the end, or as far as it came when it is interrupted; a terminal
        on stderr is told of every round.
        """
        if not where.is_terminal:
            errors = Console(stderr=True)
            self._progress = errors if errors.is_terminal else None
            try:
                yield
            finally:
                if self.table.columns:
                    where.print(self.table)
            return
        with Live(self.table, console=where, auto_refresh=False) as live:
            self._live = live
            yield
            self._live = None


def _received(result: SimulationResult) -> Iterator[str]:
    """Bytes that a node received in a round, the most first."""
    parts = sorted(result.received.items(), key=lambda item: -item[1])
    if parts:
        total = octets_of(sum(octets for _phase, octets in parts))
        told = ", ".join(f"{phase} {octets_of(octets)}" for phase, octets in parts)
        yield f"received by a node in a round: {total} ({told})"


def octets_of(count: float) -> str:
    """So many bytes, for people: ``1.25 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} B"


def _injected(result: SimulationResult) -> Iterator[str]:
    if result.injected:
        fates = reasons(result.injected)
        yield f"messages the attackers injected, as honest nodes took them: {fates}"


def _banned(result: SimulationResult) -> Iterator[str]:
    judged = any("reputation" in plugin["hooks"] for plugin in result.pipeline)
    agreed = any(item.banned_attackers + item.banned_honest for item in result.rounds)
    if result.rounds and (judged or agreed):
        last, honest = result.rounds[-1], result.nodes - result.attackers
        first = next((item.number for item in result.rounds if item.banned_attackers), None)
        since = f", the first in round {first}" if first is not None else ""
        yield (
            f"banned at the end: {last.banned_attackers} of {result.attackers} attackers{since}; "
            f"{last.banned_honest} of {honest} honest nodes"
        )


def _privacy(result: SimulationResult) -> Iterator[str]:
    for name, shown in result.rounds[-1].plugins.items() if result.rounds else ():
        if isinstance(spent := shown.get("epsilon"), float):
            budget, delta = shown.get("epsilon_budget"), shown.get("delta")
            of = f" of {budget:g}" if isinstance(budget, float) else ""
            at = f" at δ = {delta:g}" if isinstance(delta, float) else ""
            yield f"privacy spent by {name}: ε = {spent:.4g}{of}{at}"


def _backdoor(result: SimulationResult) -> Iterator[str]:
    share = result.final("backdoor")
    if share is not None:
        yield f"of the held-out examples with the trigger the model calls {share:.1%} class 0"


def summary(result: SimulationResult) -> str:
    """Summary of a whole simulation, in a few lines."""
    closed, void, aborted = len(result.closed), len(result.void), len(result.aborted)
    heights = f"{void} void, " if void else ""
    nodes = len(result.model_digests)
    if result.unanimous:
        agreement = f"all {nodes} honest nodes hold model {result.model_digests[0][:16]}"
    else:
        kinds = len(set(result.model_digests))
        agreement = f"[red]{nodes} honest nodes hold {kinds} different models[/red]"
    chain = " → ".join(f"{item['name']} {item['version']}" for item in result.pipeline)
    lines = [
        f"{closed} rounds closed, {heights}{aborted} aborted; {agreement}",
        f"{result.messages} messages, {result.virtual_seconds:.1f} virtual seconds; {chain}",
        *_received(result),
        *_injected(result),
        *_banned(result),
        *_backdoor(result),
        *_privacy(result),
        *(f"[yellow]note[/yellow] {escape(notice)}" for notice in result.notices),
    ]
    return "\n".join(lines)
