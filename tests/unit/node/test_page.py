"""The live page's script: what a browser does with it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from typing import Any

import pytest

from qres_core.node.page import page
from qres_core.swarm.ledger.roster import Roster
from qres_core.swarm.members.pending_changes import PendingChanges

NODE_JS = shutil.which("node")

# As much of a browser as the script asks for. It prints the text of each element.
BROWSER = """
const elements = {};
const element = (id) => ({
  id, textContent: "", hidden: true, className: "", style: {}, dataset: {}, children: [],
  classList: {add() {}, remove() {}, toggle() {}},
  setAttribute() {}, removeAttribute() {},
  append(...parts) { this.children.push(...parts); },
  replaceChildren(...parts) { this.children = parts; },
  querySelector: () => element(""),
});
globalThis.Node = class {};
globalThis.document = {
  hidden: false, title: "", createElement: () => element(""), addEventListener() {},
  getElementById: (id) => IDS.includes(id) ? (elements[id] ??= element(id)) : null,
};
globalThis.fetch = async () => ({ok: true, status: 200, json: async () => REPORT});
globalThis.setTimeout = () => setImmediate(() => {
  const below = (c) => typeof c === "string" ? c : words(c);
  const words = (e) => [e.textContent, ...e.children.map(below)].join(" ");
  const texts = Object.values(elements).map((e) => [e.id, words(e).trim()]);
  console.log(JSON.stringify(Object.fromEntries(texts)));
  process.exit(0);
});
"""


def parts() -> tuple[str, str]:
    """The page's markup and its script."""
    text = page().html.decode()
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    return text.replace(script, ""), script


def test_the_script_declares_no_name_twice_in_one_function() -> None:
    _markup, script = parts()
    for body in re.split(r"^(?:async )?function ", script, flags=re.MULTILINE):
        names = Counter(re.findall(r"^  (?:const|let) (\w+) = ", body, flags=re.MULTILINE))
        assert [name for name, times in names.items() if times > 1] == []


def test_each_element_that_the_script_names_is_on_the_page_once() -> None:
    markup, script = parts()
    ids = Counter(re.findall(r'\bid="([^"]+)"', markup))
    assert [name for name, times in ids.items() if times > 1] == []
    named = set(re.findall(r'\b(?:at|put|table)\("([^"]+)"', script))
    assert len(named) > 10
    assert named <= set(ids)


@pytest.mark.skipif(NODE_JS is None, reason="plays the script with Node.js, which is not installed")
def test_the_script_shows_what_a_node_reports(reports: list[dict[str, Any]]) -> None:
    assert NODE_JS is not None
    markup, script = parts()
    report = json.loads(json.dumps(reports[-1]))
    first, second, *_others = report["members"]
    first["banned_by_all"], second["silent"] = True, True
    for member in report["members"]:
        member["last_heard_seconds"] = None if member["self"] else 61.4
    report["history"][-1] |= {"closed": False, "void": True, "reason": "refused (QRES-E508)"}
    report["vanished"] = {"updates": 3, "text": "all vanish", "fix": "set swarm.scale = -7"}
    roster = Roster(tuple(bytes([k]) * 32 for k in range(4)), 1, 3)
    changes = PendingChanges("status", roster)
    changes.offer(roster.change("status", "add", b"\xaa" * 32), lambda _message: True)
    changes.problems["bad.change"] = "is no change"
    report["roster"] = changes.facts()
    ids = re.findall(r'\bid="([^"]+)"', markup)
    given = f"const IDS = {json.dumps(ids)}, REPORT = {json.dumps(report)};\n"
    shown = subprocess.run(
        [NODE_JS, "-"],
        input=given + BROWSER + script,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    said = json.loads(shown.stdout)
    assert said["state"].startswith("running, ")  # not "the node does not answer"
    assert said["title"] == "status · anna"
    assert (said["step"], said["figure"]) == ("3", "loss 0.5000")
    assert said["members"].count("61 s ago") == 3
    assert said["vanished-what"] == "3 so far: all vanish"
    assert said["roster"] == f"roster 0, {roster.digest.hex()[:12]}; 3 members must sign"
