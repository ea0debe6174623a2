"""A certificate as one page of HTML that needs nothing else: no script, no font, no address."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator
from typing import Final

import attrs

from qres_core.testing.certification import (
    FAILED,
    NOT_ASKED,
    PASSED,
    AttackRow,
    Certificate,
    Claims,
    Robustness,
)

_STYLE: Final = """
:root { color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c2329; --faint: #66727d; --line: #d9dee2; --wash: #f1f4f5;
  --good: #1d7a4c; --bad: #b3361f; --idle: #7a848c; --bar: #3b7dae; --mark: #b3361f; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15191c; --ink: #e4e9ec; --faint: #98a4ad; --line: #313a40; --wash: #1d2327;
  --good: #55bd87; --bad: #f07f68; --idle: #8b969e; --bar: #62a5d6; --mark: #f07f68; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.6rem 1.25rem; background: var(--paper);
  color: var(--ink); font: 14px/1.4 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .2rem; overflow-wrap: anywhere; }
h2 { font-size: 1rem; margin: 1.3rem 0 .3rem; }
p { margin: .3rem 0; }
code { font: .88em ui-monospace, monospace; }
p code { overflow-wrap: anywhere; }
ul { columns: 2; margin: .3rem 0; padding: 0; list-style: none; }
li { break-inside: avoid; padding: .1rem 0; }
.verdict { border-left: .35rem solid; padding: .5rem .9rem; margin: 1rem 0; background: var(--wash);
  font-weight: 600; }
.passed { color: var(--good); } .failed { color: var(--bad); } .idle { color: var(--idle); }
.faint { color: var(--faint); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .14rem .7rem .14rem 0;
  border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 500; font-size: .88em; }
td.number, th.number { text-align: right; }
td { overflow-wrap: break-word; } td code, li code { white-space: nowrap; }
.bar { display: inline-block; height: .6em; background: var(--bar); vertical-align: baseline; }
.bar.over { background: var(--bad); }
@media (max-width: 40rem) { ul { columns: 1; } }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--line); } svg .dot { fill: var(--bar); }
svg .bound { stroke: var(--mark); }
svg .least { stroke: var(--faint); stroke-dasharray: 3 3; }
@media print { :root { --paper: #fff; --ink: #000; --wash: #fff; --line: #bbb; --faint: #444;
    --good: #0a5c33; --bad: #9a2510; --bar: #3b7dae; --idle: #555; }
  @page { margin: 9mm; }
  body { max-width: none; padding: 0; font-size: 8px; line-height: 1.15; }
  h1 { font-size: 1.1rem; } .verdict { margin: .3rem 0; padding: .2rem .6rem; } li { padding: 0; }
  h2 { break-after: avoid; margin: .6rem 0 .1rem; font-size: .75rem; }
  th, td { padding-top: .04rem; padding-bottom: .04rem; } svg { height: 3rem; }
  tr, svg { break-inside: avoid; } .bar { print-color-adjust: exact; } }
"""
_LONGEST: Final = 4.0
"""Deviations above this have a bar no longer than this."""


def page(certificate: Certificate) -> str:
    """The certificate as HTML, with every text from outside escaped.

    Args:
        certificate: what was found.

    Returns:
        a whole document.
    """
    title = html.escape(certificate.spec)
    kind = "passed" if certificate.certified else "failed"
    parts = [
        "<!doctype html>",
        f'<html lang="en"><head><meta charset="utf-8"><title>Certificate of {title}</title>',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        '<p class="faint">An aggregation rule held against the conformance suite of QRES</p>',
        f'<p class="verdict {kind}">{html.escape(certificate.conclusion)}</p>',
        *_identity(certificate),
        *_rules(certificate),
        *_robustness(certificate.robustness),
        *_attacks(certificate),
        *_figures(certificate),
        *_reproduce(certificate),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of cells that are HTML already; a head that ends in ``#`` is of numbers."""
    titles = list(heads)
    kinds = [' class="number"' if one.endswith("#") else "" for one in titles]
    head = "".join(
        f"<th{kind}>{one.removesuffix('#')}</th>" for one, kind in zip(titles, kinds, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>'


def _code(text: object) -> str:
    return f"<code>{html.escape(str(text))}</code>"


def _identity(certificate: Certificate) -> Iterator[str]:
    yield "<h2>What was tested</h2>"
    yield _table(
        ("plugin", "distribution", "class", "options", "SHA-256 of its file"),
        (
            (
                html.escape(one.name),
                html.escape(one.origin),
                _code(one.target),
                "; ".join(_code(f"{name} = {value!r}") for name, value in one.options.items()),
                _code(one.digest[:16] or "no file"),
            )
            for one in certificate.parts
        ),
    )
    needs = certificate.needs
    yield (
        f"<p>Needs at least {needs.min_updates} updates, visible as "
        f"{needs.visibility.name.lower()}; withstands {needs.tolerates} liars"
        f"{'; needs equal weights' if needs.equal_weights else ''}. {stated(certificate.claims)}"
        "</p>"
    )


def stated(claims: Claims) -> str:
    """What is claimed beyond the defaults, in a sentence."""
    usual = Claims()
    said = {
        name: value for name, value in attrs.asdict(claims).items() if value != getattr(usual, name)
    }
    if not said:
        return "Nothing was claimed for it that eases the test."
    return f"Claimed for it: {', '.join(f'{name} = {value}' for name, value in said.items())}."


def _rules(certificate: Certificate) -> Iterator[str]:
    passed = [one for one in certificate.verdicts if one.outcome == PASSED]
    others = [one for one in certificate.verdicts if one.outcome != PASSED]
    yield f"<h2>Rules: {len(passed)} of {len(certificate.verdicts)} passed</h2>"
    if others:
        yield _table(
            ("id", "the rule", "verdict", "why"),
            (
                (
                    _code(one.rule),
                    html.escape(one.title),
                    '<span class="failed">FAILED</span>'
                    if one.outcome == FAILED
                    else f'<span class="idle">{NOT_ASKED}</span>',
                    html.escape(one.why),
                )
                for one in sorted(others, key=lambda one: one.outcome)
            ),
        )
    items = "".join(
        f'<li>{_code(one.rule)} <span class="passed">passed</span> {html.escape(one.title)}</li>'
        for one in passed
    )
    yield f"<ul>{items}</ul>"


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


def _robustness(robustness: Robustness | None) -> Iterator[str]:
    yield "<h2>(f, κ)-robustness</h2>"
    if robustness is None:
        yield '<p class="faint">Not measured: no liars are declared, or a rule above failed.</p>'
        return
    yield (
        f"<p>Whichever {robustness.count - robustness.liars} of {robustness.count} inputs are the "
        "honest ones, how far is the result from their mean? The least κ with "
        "|F &minus; mean<sub>S</sub>|² ≤ κ · (1/|S|) Σ |x<sub>i</sub> &minus; mean<sub>S</sub>|² "
        f"over all S, in exact arithmetic, on {robustness.inputs} sets of inputs.</p>"
    )
    yield _scale(robustness)
    yield _table(
        ("inputs that ask for most", "κ#"),
        ((html.escape(name), figure(kappa)) for name, kappa in robustness.worst[:3]),
    )


def _scale(robustness: Robustness) -> str:
    """Measured kappa between the bound no rule goes below and the bound that is claimed."""
    marks = [("least", "f / (n - 2 f)", robustness.least)]
    if robustness.declared is not None and math.isfinite(robustness.declared):
        marks.append(("bound", "declared", robustness.declared))
    finite = math.isfinite(robustness.measured)
    largest = max([value for _kind, _label, value in marks] + [robustness.measured] * finite)
    scale = 560 / (1.15 * largest or 1.0)
    shapes = [f'<line class="axis" x1="10" y1="45" x2="{10 + 560}" y2="45"/>']
    for kind, label, value in marks:
        at = 10 + scale * value
        end = ' text-anchor="end"' if at > 480 else ""
        shapes.append(f'<line class="{kind}" x1="{at:.1f}" y1="18" x2="{at:.1f}" y2="58"/>')
        height = 12 if kind == "bound" else 29
        shift = -5 if end else 5
        text = f"{label} {figure(value)}"
        shapes.append(f'<text x="{at + shift:.1f}" y="{height}"{end}>{text}</text>')
    at = 10 + (scale * robustness.measured if finite else 560)
    shapes.append(f'<circle class="dot" cx="{at:.1f}" cy="45" r="6"/>')
    end = ' text-anchor="end"' if at > 480 else ""
    shapes.append(f'<text x="{at:.1f}" y="74"{end}>measured {figure(robustness.measured)}</text>')
    label = f"measured kappa {figure(robustness.measured)}, declared {bound(robustness)}"
    return (
        f'<svg viewBox="0 0 590 80" width="590" role="img" aria-label="{label}" '
        f'style="max-width:100%">{"".join(shapes)}</svg>'
        f"<p>Declared bound: {bound(robustness)}.</p>"
    )


def _attacks(certificate: Certificate) -> Iterator[str]:
    if not certificate.attacks:
        return
    yield "<h2>Attacks</h2>"
    yield (
        f"<p>{certificate.needs.tolerates} of {certificate.nodes} send what the attack says. The "
        "deviation from the honest mean is in units of the honest spread.</p>"
    )
    yield _table(
        ("attack", "what is sent", "who must know", "deviation#", "", "κ#", "withstood"),
        (_attack(one) for one in certificate.attacks),
    )


def _attack(one: AttackRow) -> tuple[str, ...]:
    deviation = one.found.deviation
    length = 1.5 * min(deviation or 0.0, _LONGEST)
    over = " over" if one.found.withstood is False else ""
    bar = f'<span class="bar{over}" style="width:{length:.1f}em"></span>' if length else ""
    verdict = {
        True: '<span class="passed">yes</span>',
        False: '<span class="failed">NO</span>',
        None: f'<span class="idle">{html.escape(one.found.why)}</span>',
    }[one.found.withstood]
    cells = (html.escape(one.summary), html.escape(one.knowledge), figure(deviation), bar)
    return (_code(one.attack), *cells, figure(one.kappa), verdict)


def _figures(certificate: Certificate) -> Iterator[str]:
    if certificate.breakdown is not None:
        withstood, count = certificate.breakdown
        yield "<h2>Breakdown</h2>"
        yield f"<p>{withstood} far liars among {count} were withstood, and no more.</p>"
    if certificate.timings:
        times = (
            f"{one.milliseconds:.3g} ms for {one.updates} x {one.dimension:,}"
            for one in certificate.timings
        )
        yield "<h2>CPU time a call</h2>"
        yield f"<p>{'; '.join(times)}.</p>"


def _reproduce(certificate: Certificate) -> Iterator[str]:
    versions = ", ".join(f"{name} {value}" for name, value in certificate.versions.items())
    yield "<h2>To get the same again</h2>"
    yield f"<p>{_code(certificate.command)}</p>"
    yield f'<p class="faint">{html.escape(versions)}; times are of this machine alone.</p>'
