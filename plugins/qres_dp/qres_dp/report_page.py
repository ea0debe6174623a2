"""The report as a page: one list of blocks, told in Markdown or in HTML."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR
from typing import Any, Final, TypeAlias

import attrs

from qres_core import reporting
from qres_dp.modes import Relation
from qres_dp.output import bounded
from qres_dp.report import FALSE_ALARMS

_LONGEST_POWER: Final = 690.0  # of e, that is printed


@attrs.frozen
class Heading:
    """A title; level 1 is the page's."""

    text: str
    level: int = 2


@attrs.frozen
class Paragraph:
    """Sentences."""

    text: str


@attrs.frozen
class Bullets:
    """A list."""

    rows: tuple[str, ...]


@attrs.frozen
class ReportTable:
    """A table; a ``#`` at the end of a head says that the column is of numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Block: TypeAlias = Heading | Paragraph | Bullets | ReportTable


def _number(value: float | None, way: str = ROUND_CEILING) -> str:
    """Four digits; what is a bound from above is rounded up."""
    return "none" if value is None else bounded(value, 4, way)


def _share(value: float) -> str:
    """A probability in per cent, rounded up."""
    return f"{math.ceil(value * 1000) / 10:.1f} %"


def _summary(report: dict[str, Any]) -> Iterator[Block]:
    plan, spent = report["plan"], report["spent"]
    unit = plan["mechanism"]["unit"]
    budget = plan["budget"]
    yield Paragraph(
        f"The swarm {report['swarm']} learns a common model from the data of "
        f"{plan['mechanism']['nodes']} nodes. This page says how much of a single {unit} anybody "
        f"can learn from what this node sends, how that is ensured, and what it does not cover."
    )
    rows = [
        ("What is protected as a whole", plan["trust"]["unit"]),
        ("What must not be told apart", plan["trust"]["neighbours"]),
        ("Against whom", plan["trust"]["protects_from"]),
        ("Promised", f"epsilon {_number(budget['epsilon'])}, delta {budget['delta']:g}"),
        ("Planned", f"{plan['rounds']} rounds, epsilon {_number(plan['epsilon'])}"),
    ]
    if spent is None:
        rows.append(("Spent so far", "not known: the ledger does not hold"))
    else:
        rows.append(
            (
                "Spent so far",
                f"epsilon {_number(spent['epsilon'])} in {spent['rounds']} releases",
            )
        )
        more = f"enough for {spent['rounds_left']} more rounds"
        rows.append(("Left", f"epsilon {_number(spent['left'], ROUND_FLOOR)}, {more}"))
    yield ReportTable(("question", "answer"), tuple(rows))


def _guess(mechanism: dict[str, Any]) -> tuple[str, str]:
    """Question that an attacker has to answer, and the beginning of an example."""
    is_record = mechanism["unit"] == "record"
    data = "a record" if is_record else "the data of a node"
    wrong = f"{FALSE_ALARMS * 100:g} % of the cases"
    if mechanism["relation"] == Relation.ADD_REMOVE.value:
        question = f"whether {data} took part"
        what = f"accuses wrongly in {wrong}. Such a guess finds those that did take part"
    else:
        question = f"which of two candidates {data} {'is' if is_record else 'are'}"
        what = f"takes the first for the second in {wrong}. Such a guess finds the second"
    return question, f"In an example: somebody guesses {question}, and {what}"


def _meaning(report: dict[str, Any]) -> Iterator[Block]:
    plan, spent = report["plan"], report["spent"]
    unit = plan["mechanism"]["unit"]
    yield Heading("Meaning of the numbers")
    budget: float = plan["budget"]["epsilon"]
    factor = _number(math.exp(budget)) if budget <= _LONGEST_POWER else "a number of 300 digits"
    odds = (
        f"Epsilon bounds the odds. Whatever an observer thought about a single {unit}, the odds "
        f"change by a factor of at most e^epsilon: {factor} for the whole budget."
    )
    fails = f"Delta is the probability that this bound may fail: {plan['delta']:g}."
    question, example = _guess(plan["mechanism"])
    mu = (
        f"Mu says the same in one number. It is no easier to tell {question} than to tell apart "
        "two normal distributions that lie mu standard deviations from each other. For the whole "
        f"plan mu is {_number(plan['mu'])}."
    )
    example += f" in at most {_share(report['plan_hits'])} of the cases after all planned rounds"
    example += f", and {_share(spent['hits'])} after those so far." if spent else "."
    yield Bullets((odds, fails, mu, example))
    groups = plan["groups"] if spent is None else spent["groups"]
    what = "of the whole plan" if spent is None else "spent so far"
    others = "all records of one person" if unit == "record" else "all nodes of one owner"
    whose = "for records of this node" if unit == "record" else "if none was charged more than this"
    yield Paragraph(
        f"The promise is for one {unit}. Several together, such as {others}, are protected less. "
        + (f"The numbers for several hold {whose}:" if spent else "For the whole plan:")
    )
    own = plan if spent is None else spent
    rows = [(f"1 {unit}", _number(own["epsilon"]))]
    rows += [(f"{g['size']} {unit}s", _number(g["epsilon"])) for g in groups]
    yield ReportTable(("together", f"epsilon {what}#"), tuple(rows))


def _trust(report: dict[str, Any]) -> Iterator[Block]:
    yield Heading("Trust")
    yield Paragraph("The promise holds if all of this is true:")
    yield Bullets(tuple(report["plan"]["trust"]["assumes"]))
    rows: list[dict[str, Any]] = report["spent"]["on"] if report["spent"] else []
    mode = report["plan"]["mechanism"]["mode"]
    if any((row["swarm"], row["mode"]) != (report["swarm"], mode) for row in rows):
        yield Paragraph(
            "The ledger has releases of other swarms or modes. They rest on their own "
            "configurations: a report for each of those tells on what."
        )


def _mechanism(report: dict[str, Any]) -> Iterator[Block]:
    plan = report["plan"]
    told = plan["mechanism"]
    yield Heading("Mechanism")
    shared = told["mode"] == "distributed"
    deviation = _number(told["noise_of_share"], ROUND_FLOOR)
    noise = "its share of random noise, with" if shared else "random noise with"
    yield Paragraph(
        f"Everything that a {told['unit']} adds to an update is clipped to the length "
        f"{told['clip']:g}, in exact integers. Before anything leaves the node, it adds {noise} a "
        f"standard deviation of {deviation}, to each number."
    )
    rows = [
        ("mode", told["mode"]),
        ("noise of different rounds", told["noise"]),
        ("neighbours", told["relation"]),
        ("noise multiplier", _number(plan["noise_multiplier"], ROUND_FLOOR)),
        ("epsilon of the dearest round alone", _number(plan["round"]["epsilon"])),
    ]
    if shared:
        rows += [
            ("shares of noise that are counted on", str(told["honest"])),
            ("fewest updates in a sum that is opened", str(told["members"])),
            ("nodes that may work together", str(told["colluders"])),
        ]
    yield ReportTable(("setting", "value"), tuple(rows))


def _spent(report: dict[str, Any]) -> Iterator[Block]:
    ledger, spent = report["ledger"], report["spent"]
    yield Heading("Spending")
    if spent is None:
        yield Paragraph(
            "The ledger cannot be relied on, so this report says nothing about what was spent: "
            f"{ledger['problem']}"
        )
        return
    if not spent["on"]:
        yield Paragraph("Nothing has left this node yet.")
    else:
        yield ReportTable(
            ("swarm", "node", "mechanism", "releases#", "rounds", "epsilon alone#"),
            tuple(
                (
                    row["swarm"],
                    row["node"][:16],
                    _mechanism_of(row),
                    str(row["releases"]),
                    f"{row['first_round']} to {row['last_round']}",
                    _number(row["epsilon"]),
                )
                for row in spent["on"]
            ),
        )
        yield Paragraph(
            f"All of it together comes to epsilon {_number(spent['epsilon'])}. That is not the sum "
            "of the lines: it is computed for all releases at once, and rounded up."
        )
    yield Heading("Ledger")
    yield Paragraph(
        f"Every release is written down before it leaves. The {ledger['records']} records form a "
        "chain that reveals changes by anybody without its key. It was checked for this report, "
        "and it holds."
    )
    if ledger["fingerprint"]:
        yield Paragraph(f"Fingerprint of the last record: {ledger['fingerprint']}")


def _mechanism_of(row: dict[str, Any]) -> str:
    parts = [row["mode"], f"{row['noise']} noise"]
    if row["noise_multiplier"]:
        parts.append(f"z {_number(row['noise_multiplier'], ROUND_FLOOR)}")
    if row["honest"] > 1:
        parts.append(f"{row['honest']} shares")
    return ", ".join(parts)


def _audit(report: dict[str, Any]) -> Iterator[Block]:
    audit = report["audit"]
    yield Heading("Audit")
    if audit is None:
        yield Paragraph(
            "No audit was handed to this report. On the node's machine, qres dp audit makes one."
        )
        return
    passed = audit["alarms"] == 0 and not audit["missed"]
    verdict = "passed" if passed else "FAILED"
    put, missed = len(audit.get("faults", ())), len(audit["missed"])
    faults = "No faults were put into the software to test the audit."
    if put:
        faults = f"Of {put} faults put into the software on purpose, {missed} were missed."
    yield Paragraph(
        f"The audit {verdict}: {audit['alarms']} alarms in {audit['runs']} runs. {faults} A passed "
        "audit is evidence and no proof."
    )


def blocks(report: dict[str, Any]) -> list[Block]:
    """The page of a report, from top to bottom."""
    found: list[Block] = [Heading(f"Privacy report: {report['swarm']}", 1)]
    for part in (_summary, _meaning, _trust, _mechanism, _spent, _audit):
        found += part(report)
    found += [
        Heading("Limits"),
        Bullets(tuple(report["not_covered"])),
        Heading("Checking"),
        Paragraph(
            f"Made on {report['made']} by qres-dp {report['software']['qres-dp']}, from the node's "
            "configuration and ledger. qres dp plan prints the promise, qres dp ledger every "
            "release, and qres dp audit tests the installed software. The manual has the proofs "
            "and their sources."
        ),
    ]
    return found


def _escaped(text: str) -> str:
    """Text in which Markdown finds no markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_{}[]<>|#" else letter for letter in text)


def markdown(parts: Sequence[Block]) -> str:
    """The blocks in Markdown."""
    lines: list[str] = []
    for part in parts:
        if isinstance(part, Heading):
            lines += ["#" * part.level + " " + _escaped(part.text)]
        elif isinstance(part, Paragraph):
            lines += [_escaped(part.text)]
        elif isinstance(part, Bullets):
            lines += ["\n".join(f"- {_escaped(row)}" for row in part.rows)]
        else:
            rules = ["---:" if head.endswith("#") else "---" for head in part.heads]
            heads = [_escaped(head.removesuffix("#")) for head in part.heads]
            rows = [[_escaped(cell) for cell in row] for row in part.rows]
            table = ["| " + " | ".join(row) + " |" for row in (heads, rules, *rows)]
            lines += ["\n".join(table)]
    return "\n\n".join(lines) + "\n"


def html(parts: Sequence[Block]) -> str:
    """The blocks as one HTML document that loads nothing and runs nothing."""
    body: list[reporting.Html] = []
    title = ""
    for part in parts:
        if isinstance(part, Heading):
            title = title or part.text
            body.append(reporting.tag(f"h{part.level}", part.text))
        elif isinstance(part, Paragraph):
            body.append(reporting.tag("p", part.text))
        elif isinstance(part, Bullets):
            body.append(reporting.bullets(part.rows))
        else:
            body.append(reporting.table(part.heads, part.rows))
    return str(reporting.document(title, *body))
