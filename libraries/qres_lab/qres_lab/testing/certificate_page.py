"""A certificate as one page of HTML that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import attrs

from qres_core.reporting import Html, bullets, code, document, join, table, tag
from qres_lab.testing.certification import (
    FAILED,
    NOT_ASKED,
    PASSED,
    AttackRow,
    MeasuredClaims,
    Robustness,
    RuleReport,
)

_LONGEST: Final = 4.0
"""Deviations above this have a bar no longer than this."""
_DEFINITION: Final = Html(
    "The least κ with |F &minus; mean<sub>S</sub>|² ≤ κ · (1/|S|) Σ "
    "|x<sub>i</sub> &minus; mean<sub>S</sub>|² over all S, in exact arithmetic"
)


def page(certificate: RuleReport) -> str:
    """The certificate as HTML, with every text from outside escaped.

    Args:
        certificate: what was found.

    Returns:
        a whole document.
    """
    kind = "passed" if certificate.certified else "failed"
    return document(
        f"Certificate of {certificate.spec}",
        tag("h1", certificate.spec),
        tag("p", "An aggregation rule held against the conformance suite of QRES", class_="dim"),
        tag("p", certificate.conclusion, class_=f"verdict {kind}"),
        *_identity(certificate),
        *_rules(certificate),
        *_robustness(certificate.robustness),
        *_attacks(certificate),
        *_figures(certificate),
        *_reproduce(certificate),
    )


def _identity(certificate: RuleReport) -> Iterator[Html]:
    yield tag("h2", "What was tested")
    yield table(
        ("plugin", "distribution", "class", "options", "SHA-256 of its file"),
        (
            (
                part.name,
                part.origin,
                code(part.target),
                join((code(f"{name} = {value!r}") for name, value in part.options.items()), "; "),
                code(part.digest[:16] or "no file"),
            )
            for part in certificate.parts
        ),
    )
    needs = certificate.needs
    yield tag(
        "p",
        f"Needs at least {needs.min_updates} updates, visible as {needs.visibility.name.lower()}; "
        f"withstands {certificate.tolerates} liars",
        "; needs equal weights. " if needs.equal_weights else ". ",
        stated(certificate.claims),
    )


def stated(claims: MeasuredClaims) -> str:
    """Claims beyond the defaults, in a sentence."""
    usual = MeasuredClaims()
    said = {
        name: value for name, value in attrs.asdict(claims).items() if value != getattr(usual, name)
    }
    if not said:
        return "Nothing was claimed for it that eases the test."
    return f"Claimed for it: {', '.join(f'{name} = {value}' for name, value in said.items())}."


def _rules(certificate: RuleReport) -> Iterator[Html]:
    passed = [verdict for verdict in certificate.verdicts if verdict.outcome == PASSED]
    others = [verdict for verdict in certificate.verdicts if verdict.outcome != PASSED]
    yield tag("h2", f"Rules: {len(passed)} of {len(certificate.verdicts)} passed")
    words = {
        FAILED: tag("span", "FAILED", class_="failed"),
        NOT_ASKED: tag("span", NOT_ASKED, class_="dim"),
    }
    if others:
        yield table(
            ("id", "the rule", "verdict", "why"),
            (
                (code(verdict.rule), verdict.title, words[verdict.outcome], verdict.why)
                for verdict in sorted(others, key=lambda verdict: verdict.outcome)
            ),
        )
    word = tag("span", "passed", class_="passed")
    yield bullets(
        (join([code(verdict.rule), " ", word, " ", verdict.title]) for verdict in passed), "rules"
    )


def figure(value: float | None) -> str:
    """``1.453``, ``unbounded``, or nothing."""
    if value is None:
        return ""
    return "unbounded" if math.isinf(value) else f"{value:.3g}"


def bound(robustness: Robustness) -> str:
    """The declared bound, in words."""
    if robustness.declared is None:
        return "some finite one"
    return "none" if math.isinf(robustness.declared) else figure(robustness.declared)


def _robustness(robustness: Robustness | None) -> Iterator[Html]:
    yield tag("h2", "(f, κ)-robustness")
    if robustness is None:
        yield tag("p", "Not measured: no liars are declared, or a rule above failed.", class_="dim")
        return
    yield tag(
        "p",
        f"Whichever {robustness.count - robustness.liars} of {robustness.count} inputs are the "
        "honest ones, how far is the result from their mean? ",
        _DEFINITION,
        f", on {robustness.inputs} sets of inputs.",
    )
    yield _scale(robustness)
    yield tag("p", f"Declared bound: {bound(robustness)}.")
    yield table(
        ("inputs that ask for most", "κ#"),
        ((name, figure(kappa)) for name, kappa in robustness.worst[:3]),
    )


def _scale(robustness: Robustness) -> Html:
    """Measured kappa between the bound no rule goes below and the bound that is claimed."""
    marks = [("f / (n - 2 f)", robustness.least, 29, "5 3")]
    if robustness.declared is not None and math.isfinite(robustness.declared):
        marks.append(("declared", robustness.declared, 12, ""))
    finite = math.isfinite(robustness.measured)
    largest = max([value for _label, value, *_ in marks] + [robustness.measured] * finite)
    scale = 560 / (1.15 * largest or 1.0)

    def said(x: float, y: int, text: str) -> Html:
        return tag("text", text, x=f"{x:.1f}", y=y, text_anchor="end" if x > 480 else "start")

    parts = [tag("line", x1=10, y1=45, x2=570, y2=45, stroke="currentColor", stroke_opacity=".3")]
    for label, value, height, dashes in marks:
        at = 10 + scale * value
        ends = {"x1": f"{at:.1f}", "y1": 18, "x2": f"{at:.1f}", "y2": 58}
        parts.append(tag("line", **ends, stroke="currentColor", stroke_dasharray=dashes))
        parts.append(said(at + (-5 if at > 480 else 5), height, f"{label} {figure(value)}"))
    at = 10 + (scale * robustness.measured if finite else 560)
    parts.append(tag("circle", cx=f"{at:.1f}", cy=45, r=6, fill="var(--accent)"))
    parts.append(said(at, 74, f"measured {figure(robustness.measured)}"))
    label = f"measured kappa {figure(robustness.measured)}, declared {bound(robustness)}"
    frame = {"viewBox": "0 0 590 80", "width": 590, "font_size": 12, "fill": "currentColor"}
    return tag("svg", *parts, **frame, role="img", aria_label=label, class_="scale")


def _attacks(certificate: RuleReport) -> Iterator[Html]:
    if not certificate.attacks:
        return
    yield tag("h2", "Attacks")
    yield tag(
        "p",
        f"{certificate.tolerates} of {certificate.nodes} send what the attack says. The "
        "deviation from the honest mean is in units of the honest spread.",
    )
    yield table(
        ("attack", "what is sent", "who must know", "deviation#", "", "κ#", "withstood"),
        map(_attack, certificate.attacks),
    )


def _attack(row: AttackRow) -> tuple[object, ...]:
    deviation = row.found.deviation
    length = 1.5 * min(deviation or 0.0, _LONGEST)
    over = "bar over" if row.found.withstood is False else "bar"
    bar = tag("span", class_=over, style=f"width:{length:.1f}em") if length else ""
    kind, word = {True: ("passed", "yes"), False: ("failed", "NO"), None: ("dim", row.found.why)}[
        row.found.withstood
    ]
    cells = (code(row.attack), row.summary, row.knowledge, figure(deviation), bar)
    return (*cells, figure(row.kappa), tag("span", word, class_=kind))


def _figures(certificate: RuleReport) -> Iterator[Html]:
    if certificate.breakdown is not None:
        withstood, count = certificate.breakdown
        yield tag("h2", "Breakdown")
        yield tag("p", f"{withstood} far liars among {count} were withstood, and no more.")
    if certificate.timings:
        times = (
            f"{timing.milliseconds:.3g} ms for {timing.updates} x {timing.dimension:,}"
            for timing in certificate.timings
        )
        yield tag("h2", "CPU time a call")
        yield tag("p", f"{'; '.join(times)}.")


def _reproduce(certificate: RuleReport) -> Iterator[Html]:
    versions = ", ".join(f"{name} {value}" for name, value in certificate.versions.items())
    yield tag("h2", "To get the same again")
    yield tag("p", code(certificate.command))
    yield tag("p", f"{versions}; times are of this machine alone.", class_="dim")
