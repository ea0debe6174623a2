"""What a seed decides: the swarm, its plugins, its network, its accidents and its liars."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Final

import attrs

PAST: Final = (
    "old links",  # true ones, a part of them, in another order, over and over
    "made-up links",  # behind, before and between true ones, or true ones with junk on them
    "false answers",  # heads, models and questions that are old or made up; what others said
)
"""Lies about the past: asked and unasked, once and in streams, above all to nodes that lag."""
LIES: Final = (
    "silent",
    "no votes",
    "votes for few",
    "contrary",
    "wild votes",
    "echoed votes",
    "double votes",
    "other outcomes",
    "two contributions",
    "two proposals",
    "bad proposals",
    "fresh sets",
    "late",
    "withhold",
    "wrong answers",
    "attest all",
    "replay",
    "again",
    "assemble",
    "push decided",
    "private faults",
    "garbage",
    *PAST,
)
"""What liars do. Those of a character each happen at a rate of their own."""
SHARD_LIES: Final = ("false shards", "false holdings", "serves some")
"""Lies of members of committees, and of senders. Told in sharded rounds alone."""
KEPT_WORDS: Final = "kept words"
"""Honest nodes told a member that it was removed. The network kept their words until it was added
again. Told only if it is asked for: no seed draws it."""
LIE_RATES: Final = (1.0, 0.4, 0.1)
MOST_SPARES: Final = 4
"""Nodes that may join."""
NAME: Final = "storm"


@attrs.frozen
class Cut:
    """A partition: ``side`` hears nothing of the others, nor they of it, from ``begins`` on."""

    begins: float  # seconds
    ends: float  # seconds
    side: frozenset[int]  # nodes on one side
    holds: bool  # what is sent meanwhile arrives afterwards, and is not lost


@attrs.frozen
class Ambush:
    """For a while, messages of a kind reach few: what makes half of a decision."""

    begins: float  # seconds
    ends: float  # seconds
    kind: str  # what the messages' kind ends with
    spared: frozenset[int]  # nodes that get them all the same
    holds: bool  # what is kept back arrives after the fault


@attrs.frozen
class Kill:
    """A node dies at or soon after a time, and comes back."""

    node: int
    at: float  # seconds
    # writes to the journal until it dies: 0 for at once
    writes: int
    before: bool  # it dies before that write is done, and not after
    away: float  # seconds


@attrs.frozen
class Shift:
    """Operators want other members: they sign it, and give it to the nodes."""

    at: float  # seconds
    action: str  # "add", "remove", "rotate", or "return" for who was removed before
    who: int  # whom to remove, replace or take back; nobody for "add"


@attrs.frozen
class Revocation:
    """Operators strike a node off their lists, each at another time."""

    node: int
    begins: float  # seconds
    ends: float  # seconds; from then on it is on no list but its own


@attrs.frozen
class Character:
    """How a liar lies."""

    rates: Mapping[str, float]  # by lie: how often it is told where it can be
    pause: float  # seconds between what it does unasked, on average


@attrs.frozen(kw_only=True)
class Setting:
    """All of it."""

    seed: int
    nodes: int
    byzantine: int
    swarm: Mapping[str, Any]  # the table ``[swarm]``
    plugins: Mapping[str, Mapping[str, Any]]
    monna: bool  # the rule needs a pivot, which the world names
    dimension: int
    training: float  # seconds
    offsets: tuple[float, ...]  # by node, at least: how far its clock is off, seconds
    rates: tuple[float, ...]  # by node: how fast its clock goes
    store: str  # "memory" or "sqlite"
    loss: float
    duplication: float
    spread: float  # seconds: average delay
    cuts: tuple[Cut, ...]
    ambushes: tuple[Ambush, ...]
    kills: tuple[Kill, ...]
    liars: Mapping[int, Character]
    spares: int  # nodes beside the members, with the highest indices; they may join
    shifts: tuple[Shift, ...]
    revocations: tuple[Revocation, ...]
    heals: float  # seconds; from then on the network is perfect and nobody dies

    @property
    def calm(self) -> bool:
        """Whether nothing in the stack may end a height without a model."""
        return not self.monna and not {"moody", "chatty", "secagg"} & set(self.plugins)

    @property
    def summary(self) -> str:
        """One line."""
        swarm = self.swarm
        plugins = " ".join(
            name + (f"{dict(table)}" if table and name in {"moody", "chatty", "critic"} else "")
            for name, table in self.plugins.items()
            if name != "memory"
        )
        liars = "; ".join(f"{who}: {', '.join(how.rates)}" for who, how in self.liars.items())
        return (
            f"n={self.nodes} f={self.byzantine} {swarm['topology']} {plugins} store={self.store} "
            f"loss={self.loss} spread={self.spread} cuts={len(self.cuts)} "
            f"ambushes={len(self.ambushes)} kills={len(self.kills)} heals={self.heals:.1f} "
            f"shifts={[(shift.action, shift.who) for shift in self.shifts]} "
            f"revoked={[item.node for item in self.revocations]} liars {{{liars}}}"
        )


def _some(rng: random.Random, nodes: int) -> frozenset[int]:
    return frozenset(rng.sample(range(nodes), rng.randrange(1, nodes)))


def _stack(rng: random.Random, nodes: int, f: int) -> tuple[dict[str, Any], bool]:
    """The plugins, in file order, and whether the rule is monna."""
    quorum = nodes - f
    plugins: dict[str, Any] = {"memory": {}}
    # So many must stay beside a node that is away, for shares that liars hold to do no harm.
    masked = rng.random() < 0.03 and nodes >= 3 * f + 3
    signs = "ed25519" if masked or rng.random() < 0.05 else "tag"
    plugins[signs] = {}
    if rng.random() < 0.12:
        plugins["pki"] = {}
    if masked or rng.random() < 0.7:
        plugins["replay"] = {}
    if rng.random() < 0.4:
        plugins["reputation"] = {"outlier_rounds": rng.choice([0, 3])}
    if rng.random() < 0.2:
        plugins["prover"] = {}
    if masked:
        # A sum of everybody may have to wait for a member until its private ban ends.
        if "reputation" in plugins:
            plugins["reputation"]["ban_rounds"] = 16
        plugins["secagg"] = {"patience": 0.15, "corrupt": 0.0}
    if rng.random() < 0.25:
        stuck, broken = rng.choice([0.0, 0.05, 0.2]), rng.choice([0.0, 0.0, 0.1])
        plugins["chatty"] = {"stuck": stuck, "broken": broken}
    if rng.random() < 0.1 and not masked:
        plugins["critic"] = {"against": rng.choice([0.02, 0.1])}
    if rng.random() < 0.5:
        plugins["moody"] = {
            "refuses": rng.choice([0.0, 0.1, 0.4]),
            "breaks": rng.choice([0.0, 0.0, 0.2]),
            "lame": rng.choice([0.0, 0.0, 0.05]),
        }
    rules: list[tuple[str, dict[str, Any]]] = [("mean", {"unprotected": True})]
    if not masked:
        rules += [("median", {"f": f}), ("monna", {"f": f}), ("trimmed_mean", {"f": f})]
        if quorum >= 2 * f + 3:
            rules += [("krum", {"f": f}), ("krum", {"f": f, "select": 2})]
    rule, table = rng.choice(rules)
    plugins[rule] = table
    if rule == "monna":  # with its pivot gone it refuses all, and who endorses then votes for none
        plugins.pop("critic", None)
    return plugins, rule == "monna"


def _alone(rng: random.Random, nodes: int, heals: float) -> tuple[list[Ambush], list[Cut]]:
    """Moments in which one node alone may see a decision, and nobody hears of it for a while."""
    ambushes: list[Ambush] = []
    cuts: list[Cut] = []
    kinds = rng.choice([("choice/precommit",), ("outcome/precommit",), ("precommit",)])
    for _moment in range(rng.choice([1, 2])):
        who = frozenset({rng.randrange(nodes)})
        begins = rng.uniform(0.0, heals)
        ends = min(heals, begins + rng.uniform(1.0, 3.0))
        holds = rng.random() < 0.5
        ambushes += [Ambush(begins, ends, kind, who, holds) for kind in kinds]
        if rng.random() < 0.5:
            silent = ("lock", "certificate", "links")
            ambushes += [Ambush(begins, heals, kind, frozenset(), holds) for kind in silent]
        after = min(heals, begins + rng.uniform(0.3, 1.5))
        cuts.append(Cut(after, min(heals, after + rng.uniform(1.0, 6.0)), who, holds))
    return ambushes, cuts


def _shifts(
    rng: random.Random, nodes: int, f: int, plugins: Mapping[str, Any], topology: str, heals: float
) -> tuple[Shift, ...]:
    """Changes of the members. With krum nobody is removed: it needs its number of updates."""
    shifts: list[Shift] = []
    left = nodes
    for _shift in range(rng.choice([0, 0, 0, 1, 1, 2, 3])):
        action = rng.choice(["add", "remove", "rotate"])
        if action == "remove" and (left <= 3 * f + 1 or "krum" in plugins):
            action = "add"
        left += {"add": 1, "remove": -1, "rotate": 0}[action]
        # The coordinator stays: who takes its place may lie.
        who = rng.randrange(1 if topology == "coordinator" else 0, nodes)
        shifts.append(Shift(rng.uniform(0.5, heals), action, who))
    return tuple(sorted(shifts, key=lambda shift: shift.at))


def _with_a_past(rng: random.Random, setting: Setting) -> Setting:
    """More time, of which a member is cut off for the most while the others go on.

    In some of them it is removed meanwhile, and added again. In most little else goes wrong: liars
    about the past do more harm where the swarm has one.
    """
    nodes, f = setting.nodes, setting.byzantine
    first = 1 if setting.swarm["topology"] == "coordinator" else 0
    who = rng.choice([node for node in range(first, nodes) if node not in setting.liars])
    begins = rng.uniform(0.3, 3.0)
    ends = begins + rng.uniform(2.0, 10.0)
    cut = Cut(begins, ends, frozenset({who}), rng.random() < 0.2)
    heals = max(setting.heals, ends + rng.choice([0.0, 0.0, rng.uniform(0.0, 3.0)]))
    if rng.random() < 0.7:
        spread = rng.choice([0.01, 0.05])
        setting = attrs.evolve(
            setting, cuts=(), ambushes=(), shifts=(), loss=0.0, duplication=0.0, spread=spread
        )
    at, shifts = begins + rng.uniform(-0.2, 1.0), setting.shifts
    if nodes > 3 * f + 1 and "krum" not in setting.plugins and rng.random() < 0.7:
        back = at + rng.uniform(0.3, 2.0)
        shifts = (*shifts, Shift(at, "remove", who), Shift(back, "return", who))
    elif rng.random() < 0.7:
        shifts = (*shifts, Shift(at, "add", who))
    shifts = tuple(sorted(shifts, key=lambda shift: shift.at))
    return attrs.evolve(setting, cuts=(*setting.cuts, cut), shifts=shifts, heals=heals)


def draw(seed: int, lies: tuple[str, ...] = ()) -> Setting:
    """The setting of a seed; with ``lies``, some nodes lie, and tell these beside others."""
    rng = random.Random(f"setting {seed}")  # noqa: S311 - a seed decides
    nodes = rng.choice([4, 4, 4, 5, 6, 7, 7])
    f = rng.choice([1, 2]) if nodes == 7 else 1
    plugins, monna = _stack(rng, nodes, f)
    topology = "coordinator" if rng.random() < 0.2 else "gossip"
    swarm = {
        "name": NAME,
        "nodes": nodes,
        "byzantine": f,
        "quorum": nodes - f,
        "deadline": rng.choice([0.6, 1.2]),
        "vote_timeout": rng.choice([0.3, 0.6]),
        "interval": rng.choice([0.0, 0.0, 0.5]),
        "topology": topology,
        "insecure": "replay" not in plugins,
        "proof_checks": "committee" if "prover" in plugins and rng.random() < 0.5 else "everyone",
    }
    heals = rng.uniform(4.0, 10.0)
    # With the coordinator topology the first node may not lie: it would stop the swarm.
    may_lie = range(1 if topology == "coordinator" else 0, nodes)
    lying = rng.sample(may_lie, rng.choice([f if lies else 0, f, f, f]))
    liars: dict[int, Character] = {}
    conspire = rng.random() < 0.4
    for liar in sorted(lying):
        chosen = rng.sample(LIES, rng.choice([1, 2, 3, 5]))
        rates = {lie: rng.choice(LIE_RATES) for lie in (*lies, *chosen)}
        alike = next(iter(liars.values())) if conspire and liars else None
        liars[liar] = alike or Character(rates, rng.choice([0.1, 0.4]))
    honest = [node for node in range(nodes) if node not in liars]
    cuts, ambushes, kills = [], [], []
    for _cut in range(rng.choice([0, 0, 1, 2])):
        begins = rng.uniform(0.0, heals)
        ends = min(heals, begins + rng.uniform(0.3, 4.0))
        cuts.append(Cut(begins, ends, _some(rng, nodes), rng.random() < 0.4))
    for _ambush in range(rng.choice([0, 0, 2, 4, 8])):
        begins = rng.uniform(0.0, heals)
        ends = min(heals, begins + rng.choice([0.3, 1.0, 2.0]))
        kind = rng.choice(
            ["proposal", "prevote", "precommit", "certificate", "fetched", "links", "lock"]
        )
        ambushes.append(Ambush(begins, ends, kind, _some(rng, nodes), rng.random() < 0.5))
    if rng.random() < 0.3:
        alone, apart = _alone(rng, nodes, heals)
        ambushes += alone
        cuts += apart
    for _kill in range(rng.choice([0, 0, 1, 2, 4])):
        writes = rng.choice([0, 1, 1, 2, 3])
        away = rng.choice([0.01, 0.5, 3.0])
        at = rng.uniform(0.0, heals)
        kills.append(Kill(rng.choice(honest), at, writes, rng.random() < 0.5, away))
    if rng.random() < 0.1:  # the power fails
        at, away = rng.uniform(0.0, heals), rng.uniform(0.01, 1.0)
        kills += [Kill(node, at, rng.choice([0, 1]), before=False, away=away) for node in honest]
    off = rng.choice([0.0, 0.0, 5.0] if "replay" in plugins else [0.0, 5.0, 400.0])
    drift = rng.choice([0.0, 0.0, 0.05])
    shifts = _shifts(rng, nodes, f, plugins, topology, heals)
    revocations: list[Revocation] = []
    if "pki" in plugins and rng.random() < 0.7:
        faulty = sorted(liars) if len(liars) >= f else list(may_lie)
        begins = rng.uniform(0.0, heals)
        ends = min(heals, begins + rng.choice([0.0, 1.0, 5.0]))
        revocations.append(Revocation(rng.choice(faulty), begins, ends))
    setting = Setting(
        seed=seed,
        nodes=nodes,
        byzantine=f,
        swarm=swarm,
        plugins=plugins,
        monna=monna,
        dimension=rng.randrange(3, 9),
        training=rng.choice([0.1, 0.3]),
        offsets=tuple(rng.uniform(-off, off) for _node in range(nodes + MOST_SPARES)),
        rates=tuple(1.0 + rng.uniform(-drift, drift) for _node in range(nodes + MOST_SPARES)),
        store="sqlite" if rng.random() < 0.05 or "secagg" in plugins else "memory",
        loss=rng.choice([0.0, 0.0, 0.03, 0.1, 0.3]),
        duplication=rng.choice([0.0, 0.0, 0.1]),
        spread=rng.choice([0.01, 0.05, 0.2, 0.6]),
        cuts=tuple(cuts),
        ambushes=tuple(ambushes),
        kills=tuple(sorted(kills, key=lambda kill: kill.at)),
        liars=liars,
        spares=0,
        shifts=shifts,
        revocations=tuple(revocations),
        heals=heals,
    )
    if any(lie in (*PAST, KEPT_WORDS) for how in liars.values() for lie in how.rates):
        setting = _with_a_past(rng, setting)
    spares = sum(shift.action in {"add", "rotate"} for shift in setting.shifts)
    return attrs.evolve(setting, spares=spares)


def sharded(seed: int, lies: tuple[str, ...] = ()) -> Setting:
    """The setting of a seed, in sharded rounds and with plugins that can take part in them.

    Liars lie in their committees too, beside what they do anyway.
    """
    rng, setting = random.Random(f"sharded {seed}"), draw(seed, lies)  # noqa: S311 - a seed decides
    can = {"memory", "replay", "chatty", "mean", "median", "trimmed_mean"}
    plugins = {name: table for name, table in setting.plugins.items() if name in can}
    if plugins.keys().isdisjoint({"mean", "median", "trimmed_mean"}):
        plugins["mean"] = {"unprotected": True}
    liars: dict[int, Character] = {}
    for liar, character in setting.liars.items():
        told = rng.sample(SHARD_LIES, rng.choice([0, 1, 2, 3]))
        rates = {**character.rates, **{lie: rng.choice(LIE_RATES) for lie in told}}
        liars[liar] = attrs.evolve(character, rates=rates)
    swarm = {**setting.swarm, "proof_checks": "everyone", "aggregation": "sharded"}
    plugins = {"tag": {}, **plugins}
    return attrs.evolve(setting, plugins=plugins, monna=False, swarm=swarm, liars=liars)
