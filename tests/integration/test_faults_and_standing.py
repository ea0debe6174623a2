"""What nodes are held to has not changed since facts were sentences: who is banned, and for what.

The table has every sentence that the kernel and the plugins told a node off with before facts
became values, with the blame it was told with, and the value that took its place. The rules that
sentences were judged by are written out here, as they were. The values go through the real kernel
and the real reputation plugin.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import attrs
import pytest
from qres_lab.testing import make_node_ids
from qres_reputation import Reputation
from qres_reputation.rules import UNIT

from qres_core import Accusation, Blame, Fault, NodeInfo
from qres_core.contract.faults import KERNEL
from qres_core.kernel.assembly import enable
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.solver import Solution

PLUGINS = Path(__file__).parents[2] / "plugins"
ROSTER = make_node_ids(4)
SUBJECT = ROSTER[1]

# ── the rules as they were ────────────────────────────────────────────────────────────────────────

OWN_VIEW = {"set names a banned node", "unknown dialogue", "another goal"}
"""Of the round: nobody was blamed for these, whoever sent the message."""
DISPUTABLE = {
    "replayed",
    "set bends a standing",
    "set names a banned node",
    "unknown dialogue",
}
"""Of the reputation plugin: the facts that its option ``ignore`` had by default.

Votes that prove nothing were among them for as long as they were judged by today's members. They
are judged by the members of their head now, which are the same for all, and count.
"""


@attrs.frozen
class Row:
    """A sentence, how it was told, and what is told in its place.

    Attributes:
        sentence: the fact, as it was.
        blame: whom the kernel blamed; ``None`` for an accusation, which names the node.
        source: plugin that found it, or ``"kernel"``.
        fact: a fault, or the plugin's own id.
    """

    sentence: str
    blame: Blame | None
    source: str
    fact: str

    @property
    def label(self) -> str:
        blamed = "accused" if self.blame is None else self.blame.name.lower()
        return f"{self.source}-{self.sentence}-{blamed}"


@attrs.frozen
class Settings:
    """Options of the reputation plugin that decide what a fact comes to."""

    punish: float
    ignores: bool


LENIENT, STRICT = Settings(0.1, ignores=True), Settings(0.4, ignores=True)
UNFORGIVING = Settings(0.4, ignores=False)
START, BAN_BELOW = Fraction(1, 2), Fraction(1, 5)
Outcome = tuple[Fraction, bool]
"""The score of the node, and whether it is banned."""


def formerly(row: Row, settings: Settings) -> Outcome:
    """What the sentence came to."""
    blamed = row.blame is not Blame.NOBODY and row.sentence not in OWN_VIEW
    ignored = settings.ignores and row.sentence in DISPUTABLE
    score = START
    if blamed and not ignored:
        score -= Fraction(str(settings.punish))
    return score, score < BAN_BELOW


# ── the sentences ─────────────────────────────────────────────────────────────────────────────────

OF_THE_KERNEL = (
    ("malformed: QRES-E401", Blame.LINK, Fault.FRAME_TOO_LARGE),
    ("malformed: QRES-E402", Blame.LINK, Fault.FRAME_MALFORMED),
    ("malformed: QRES-E403", Blame.LINK, Fault.FRAME_NOT_CANONICAL),
    ("malformed: QRES-E404", Blame.LINK, Fault.FRAME_FIELD_INVALID),
    ("malformed: QRES-E405", Blame.LINK, Fault.FRAME_DIGEST_MISMATCH),
    ("malformed: QRES-E406", Blame.LINK, Fault.FRAME_VERSION_UNKNOWN),
    ("other swarm", Blame.LINK, Fault.OTHER_SWARM),
    # It blamed the link for as long as members never changed.
    ("unknown sender", Blame.NOBODY, Fault.UNKNOWN_SENDER),
    ("unknown authenticator", Blame.LINK, Fault.UNKNOWN_AUTHENTICATOR),
    ("sequence of another key", Blame.SENDER, Fault.SEQUENCE_OF_OTHER_KEY),
    ("banned", Blame.NOBODY, Fault.BANNED),
    ("equivocation", Blame.SENDER, Fault.EQUIVOCATION),
    ("malformed payload", Blame.SENDER, Fault.MALFORMED_PAYLOAD),  # it named the field, too
    ("unknown kind", Blame.SENDER, Fault.UNKNOWN_KIND),
    ("unknown dialogue", Blame.SENDER, Fault.UNKNOWN_DIALOGUE),
    ("addressed to another node", Blame.NOBODY, Fault.ADDRESSED_TO_ANOTHER),
    ("unproven dialogue message", Blame.SENDER, Fault.UNPROVEN_DIALOGUE_MESSAGE),
    ("too many dialogue messages", Blame.SENDER, Fault.TOO_MANY_DIALOGUE_MESSAGES),
    ("not the proposer", Blame.SENDER, Fault.NOT_THE_PROPOSER),
    ("set below quorum", Blame.SENDER, Fault.SET_BELOW_QUORUM),
    ("set names a stranger", Blame.SENDER, Fault.SET_NAMES_STRANGER),
    ("set of another round", Blame.SENDER, Fault.SET_OF_OTHER_ROUND),
    ("set names a banned node", Blame.SENDER, Fault.SET_NAMES_BANNED),
    ("set bends a standing", Blame.SENDER, Fault.STANDING_BENT),
    ("unproven lock", Blame.SENDER, Fault.UNPROVEN_LOCK),
    ("unproven certificate", Blame.SENDER, Fault.UNPROVEN_CERTIFICATE),
    ("unproven snapshot", Blame.SENDER, Fault.UNPROVEN_LINK),
    ("unproven stop", Blame.SENDER, Fault.UNPROVEN_STOP),
    ("unproven contribution", Blame.SENDER, Fault.UNPROVEN_CONTRIBUTION),
    ("no room", Blame.NOBODY, Fault.NO_ROOM),
    ("another goal", Blame.SENDER, Fault.OTHER_GOAL),
)
OF_PLUGINS = {
    ("ed25519", Blame.LINK): ("no signature", "bad signature"),
    ("pki", Blame.LINK): (
        *("no certificate", "certificate too large", "malformed certificate", "unknown issuer"),
        *("certificate unsuitable", "certificate of another key"),
        *("certificate of another swarm", "role missing"),
    ),
    ("pki", Blame.NOBODY): (
        *("membership unreadable", "CRL rolled back", "not a member"),
        *("certificate not yet valid", "certificate expired", "certificate revoked"),
        *("CA certificate not valid now", "CRL expired", "membership not loaded"),
    ),
    ("replay", Blame.LINK): ("sequence too old",),
    ("replay", Blame.NOBODY): (
        *(
            "unknown sender",
            "sequence too old",
            "clock behind",
            "clock ahead",
            "sent before the restart",
        ),
    ),
    ("secagg", None): (
        *("message of another session", "message malformed", "not in the roster"),
        *("two messages of one kind", "key not in the group", "one key used twice"),
        *("key of another node", "shares dealt to the wrong nodes", "dealt shares do not fit"),
        *("opened share is not the one committed to", "opened a share it does not hold"),
        *("shares do not give the secret committed to", "masked input is not the one agreed on"),
        *(
            "complaint about shares that fit",
            "list not valid",
            "companions of another form",
        ),
    ),
    ("validation", Blame.NOBODY): ("worse on held-out examples",),
    ("validation", None): ("oversized update", "harmful update"),
    ("zk", Blame.SENDER): ("bad proof", "no proof", "no blinds", "malformed proof"),
    ("zk", None): ("another vector than committed",),
}
ROWS = [
    *(Row(sentence, blame, KERNEL, fact) for sentence, blame, fact in OF_THE_KERNEL),
    *(
        Row(sentence, blame, plugin, sentence.lower().replace(" ", "-"))
        for (plugin, blame), sentences in OF_PLUGINS.items()
        for sentence in sentences
    ),
    # The one fault of the kernel that a plugin may name.
    Row("replayed", Blame.LINK, "replay", Fault.REPLAYED),
    Row("replayed", Blame.NOBODY, "replay", Fault.REPLAYED),
    # A hook that fails blames nobody.
    Row("verify raised", Blame.NOBODY, "zk", "verify-raised"),
    Row("authenticate gave no verdict", Blame.NOBODY, "ed25519", "authenticate-gave-no-verdict"),
]


NEW = {Fault.UNPROVEN_CHANGE, Fault.OTHER_SETTINGS, Fault.WRONG_SHARD}
"""What no sentence told of."""


def now(row: Row, settings: Settings) -> Outcome:
    """What the value comes to, in a swarm where nothing was held against anybody before."""
    ignore = {} if settings.ignores else {"ignore": ()}
    reputation = Reputation(punish=settings.punish, **ignore)
    kernel = Kernel(
        [enable(reputation, "reputation")],
        SwarmConfig(name="table", nodes=4, byzantine=1, quorum=3, insecure=True),
        solution=Solution((), ()),
    )
    kernel.setup(NodeInfo(ROSTER[0], "table", ROSTER))
    try:
        if row.blame is None:
            kernel.observe(kernel.intake.evidence(row.source, Accusation(SUBJECT, row.fact), 1))
        else:
            kernel.refuse(row.fact, row.blame, SUBJECT, row.source, 1)
        score = reputation._ledger.records[SUBJECT].belief.score
        return Fraction(score, UNIT).limit_denominator(1000), kernel.standing(SUBJECT).banned
    finally:
        kernel.teardown()


def changed() -> list[str]:
    """The sentences whose value comes to something else than they did."""
    return [
        row.label
        for row in ROWS
        for settings in (LENIENT, STRICT, UNFORGIVING)
        if now(row, settings) != formerly(row, settings)
    ]


@pytest.mark.parametrize("settings", [LENIENT, STRICT, UNFORGIVING], ids=str)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.label)
def test_a_value_comes_to_what_its_sentence_came_to(row: Row, settings: Settings) -> None:
    assert now(row, settings) == formerly(row, settings)


def test_the_table_bans_counts_and_lets_pass() -> None:
    """Otherwise the test above says little."""
    came_to = {
        settings: {formerly(row, settings) for row in ROWS} for settings in (LENIENT, STRICT)
    }
    assert came_to[LENIENT] == {(START, False), (Fraction(2, 5), False)}
    assert came_to[STRICT] == {(START, False), (Fraction(1, 10), True)}
    forgiven = [row.sentence for row in ROWS if formerly(row, STRICT) != formerly(row, UNFORGIVING)]
    assert set(forgiven) == DISPUTABLE - OWN_VIEW


def test_every_fault_is_in_the_table() -> None:
    assert {row.fact for row in ROWS if isinstance(row.fact, Fault)} == set(Fault) - NEW


def _strings(plugin: str) -> Iterator[str]:
    for path in (PLUGINS / f"qres_{plugin}" / f"qres_{plugin}").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize("plugin", sorted({plugin for plugin, _blame in OF_PLUGINS}))
def test_the_ids_of_the_table_are_those_of_the_plugins(plugin: str) -> None:
    ids = {
        row.fact
        for row in ROWS
        if row.source == plugin and not isinstance(row.fact, Fault) and "verdict" not in row.fact
    }
    assert ids - {"verify-raised"} <= set(_strings(plugin))


@pytest.mark.claim("C-reputation-9")
def test_rewording_every_text_changes_nobodys_standing(monkeypatch: pytest.MonkeyPatch) -> None:
    for fault in Fault:
        monkeypatch.setattr(fault, "text", f"Worded otherwise: {len(fault.text)}.")
    assert changed() == []


@pytest.mark.control("C-reputation-9")
def test_another_nature_of_a_fault_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The positive control: what does decide, the table sees."""
    monkeypatch.setattr(Fault.OTHER_GOAL, "own_view", False)
    monkeypatch.setattr(Fault.EQUIVOCATION, "own_view", True)
    assert set(changed()) == {"kernel-another goal-sender", "kernel-equivocation-sender"}
