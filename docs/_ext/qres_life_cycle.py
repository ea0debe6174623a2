"""Draws the life cycle of a node as one SVG that needs nothing else."""

from __future__ import annotations

import html
from typing import Final

from qres_core.kernel.slots import ALL_HOOKS

LANES: Final = (
    (
        "at start",
        (
            *("discover", "gate", "import", "configure", "register", "solve"),
            *("identity", "setup", "key_index", "link_keys", "transport"),
        ),
    ),
    ("a neighbour", ("connect", "credential", "admit")),
    (
        "every message",
        (
            *("size", "form", "swarm", "roster", "reputation"),
            *("authenticate", "sequence", "replay_check", "reputation"),
        ),
    ),
    (
        "round: make",
        ("round_opened", "dialogues", "train", "privatize", "prove", "sign", "contribute"),
    ),
    (
        "round: gather",
        (
            *("gather", "verify", "verify_shard", "verify_all"),
            *("screen", "revealable", "approve", "propose"),
        ),
    ),
    ("round: agree", ("revealable", "endorse", "prevote", "precommit", "decide")),
    (
        "round: close",
        (
            *("reveal_shard", "reveal", "wrap_aggregate", "aggregate"),
            *("journal", "observe", "round_closed", "digests"),
        ),
    ),
    ("when asked", ("status",)),
    ("at the end", ("teardown",)),
)
"""What happens, in order; a name of a hook is where that hook is called."""

_BOX_HEIGHT: Final = 30
_LANE: Final = 58
_LEFT: Final = 118
_GAP: Final = 20
_CHARACTER: Final = 7.3
_STYLE: Final = """
  rect.page { fill: #ffffff } text { font: 12px ui-monospace, monospace; fill: #1f2933 }
  text.lane { font: 600 12px system-ui, sans-serif; fill: #52606d }
  rect.step { fill: #f1f4f7; stroke: #9aa5b1 } rect.hook { fill: #dcecfb; stroke: #2f6fab }
  path { stroke: #7b8794; fill: none } .tip { fill: #7b8794; stroke: none }
"""


def _box_width(name: str) -> float:
    return len(name) * _CHARACTER + 16


def draw_life_cycle() -> str:
    """The SVG. Steps where a hook is called are blue."""
    parts: list[str] = []
    widest = 0.0
    for row, (lane, steps) in enumerate(LANES):
        top = 14 + row * _LANE
        middle = top + _BOX_HEIGHT / 2
        parts.append(f'<text class="lane" x="12" y="{middle + 4:g}">{html.escape(lane)}</text>')
        left = float(_LEFT)
        for index, name in enumerate(steps):
            if index:
                end = left - 6
                parts.append(f'<path d="M{left - _GAP:g} {middle:g}H{end:g}"/>')
                parts.append(f'<path class="tip" d="M{left:g} {middle:g}l-7 -4v8z"/>')
            width = _box_width(name)
            kind = "hook" if name in ALL_HOOKS else "step"
            parts.append(
                f'<rect class="{kind}" x="{left:g}" y="{top}" width="{width:g}" '
                f'height="{_BOX_HEIGHT}" rx="5"/>'
            )
            parts.append(
                f'<text x="{left + width / 2:g}" y="{middle + 4:g}" text-anchor="middle">'
                f"{html.escape(name)}</text>"
            )
            left += width + _GAP
        widest = max(widest, left - _GAP)
    width, height = widest + 14, len(LANES) * _LANE
    title = "Life cycle of a node: what happens in order, and where each hook is called"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" role="img">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="page" width="{width:g}" height="{height}" rx="8"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )
