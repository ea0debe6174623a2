"""The configuration file: one TOML, read strictly.

No value is converted, no key is ignored, and every problem of the file is reported at once with its
key path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import (
    Any,
    ClassVar,
    Final,
    Protocol,
    TypeVar,
    cast,
    get_args,
    get_origin,
    runtime_checkable,
)

import attrs
import cattrs
import tomli
from cattrs.errors import (
    AttributeValidationNote,
    BaseValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
    IterableValidationNote,
)

from qres_core.contract import canonical, fixed, options
from qres_core.contract.errors import ConfigError, OptionError, Problem, QresError
from qres_core.contract.stores import read_text
from qres_core.contract.suggest import did_you_mean
from qres_core.contract.types import MAX_WEIGHT
from qres_core.kernel import goal

MAX_CONFIG_BYTES: Final = 2**20
T = TypeVar("T")


def _help(text: str) -> dict[str, str]:
    return {"help": text}


def committee_size(nodes: int, byzantine: int) -> int:
    """Nodes that check a proof where not all do: ``2 f + 1``, or all others if they are fewer."""
    return min(nodes - 1, 2 * byzantine + 1)


@attrs.frozen(kw_only=True)
class SwarmConfig:
    """The ``[swarm]`` table: what all nodes must agree on."""

    GONE: ClassVar[Mapping[str, tuple[str, str]]] = {
        "fragments": (
            "is gone: updates of fewer bits save more, and learn more",
            "leave it out, and add a plugin that rounds updates to few bits",
        )
    }

    name: str = attrs.field(
        # What an envelope can carry.
        validator=options.text(
            "[A-Za-z0-9][A-Za-z0-9._/-]{0,63}",
            "1 to 64 of the characters A-Z a-z 0-9 . _ / - and begin with a letter or a digit",
        ),
        metadata=_help("Name of the swarm; bound into every signed message."),
    )
    nodes: int = attrs.field(validator=options.whole(1), metadata=_help("Number of nodes, n."))
    byzantine: int = attrs.field(
        validator=options.whole(0),
        metadata=_help("Liars among the nodes to withstand, f. Agreement needs n >= 3 f + 1."),
    )
    quorum: int = attrs.field(
        validator=options.whole(1),
        metadata=_help("Fewest contributions with which a round may close."),
    )
    deadline: float = attrs.field(
        default=30.0,
        validator=options.real(0.001, unit="seconds"),
        metadata=_help("Seconds to wait for contributions before a set is proposed."),
    )
    vote_timeout: float = attrs.field(
        default=5.0,
        validator=options.real(0.001, unit="seconds"),
        metadata=_help("Seconds to wait in each step of the agreement; grows with every abort."),
    )
    deadline_stretch: float = attrs.field(
        default=10.0,
        validator=options.real(1, 100, unit="times"),
        metadata=_help(
            "Most times their length that a real node stretches its own `deadline` and "
            "`vote_timeout`, where contributions or votes took longer lately; 1: never."
        ),
    )
    interval: float = attrs.field(
        default=0.0,
        validator=options.real(0, unit="seconds"),
        metadata=_help("Fewest seconds between the training of one model and of the next."),
    )
    rounds: int = attrs.field(
        default=0,
        validator=options.whole(0),
        metadata=_help("Stop at this model, counted from the first; 0 to go on until stopped."),
    )
    until: str = attrs.field(
        default="",
        validator=options.text(
            f"({goal.PATTERN})?", 'a figure, one of >= > <= < and a number: "accuracy >= 0.95"'
        ),
        metadata=_help(
            "Stop once enough nodes to decide a vote say that a model reached this on "
            'their own figures, for example "accuracy >= 0.95"; empty to go on.'
        ),
    )
    topology: str = attrs.field(
        default="gossip",
        validator=options.one_of("gossip", "coordinator"),
        metadata=_help(
            '"gossip": the proposer rotates. "coordinator": the first of the roster proposes.'
        ),
    )
    roster: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_help("Identities of the nodes, 64 hex digits each. The simulator makes its own."),
    )
    roster_epoch: int = attrs.field(
        default=0,
        validator=options.whole(0),
        metadata=_help(
            "Number of the roster that `roster`, `nodes` and `quorum` are of, as `qres roster "
            "show` prints it; 0 for the first. A node that joins trusts this roster."
        ),
    )
    insecure: bool = attrs.field(
        default=False,
        metadata=_help("Admit that nobody is authenticated. For experiments only."),
    )
    scale: int = attrs.field(
        default=0,
        validator=options.whole(-32, fixed.MAX_SCALE),
        metadata=_help("Power-of-two exponent of the grid: a step is 2**(scale - 16)."),
    )
    weight_cap: int = attrs.field(
        default=1,
        validator=options.whole(1, MAX_WEIGHT),
        metadata=_help("Largest number of examples a node may claim; 1 counts all nodes equally."),
    )
    standing_tolerance: float = attrs.field(
        default=0.1,
        validator=options.real(0, 1),
        metadata=_help(
            "Greatest difference between a proposer's and this node's view of a node's standing."
        ),
    )
    proof_checks: str = attrs.field(
        default="everyone",
        validator=options.one_of("everyone", "committee"),
        metadata=_help(
            '"everyone": each node checks each proof. "committee": 2 f + 1 nodes check '
            "each, and the others believe f + 1 of them."
        ),
    )
    aggregation: str = attrs.field(
        default="everyone",
        validator=options.one_of("everyone", "sharded"),
        metadata=_help(
            '"everyone": each node takes in all updates. "sharded": committees of 2 f + 1 merge '
            "ranges of coordinates, and a node downloads about f + 2 updates."
        ),
    )
    participants: int = attrs.field(
        default=0,
        validator=options.whole(0, unit="nodes"),
        metadata=_help(
            "Members drawn from the head to train in each round; all vote. 0: everybody trains."
        ),
    )
    shard_committee: int = attrs.field(
        default=0,
        validator=options.whole(0, unit="nodes"),
        metadata=_help(
            "Committee size of sharded rounds, odd: committees are drawn from the head, and more "
            "than half of one must agree. 0: 2 f + 1, a majority for any f liars."
        ),
    )
    memory: int = attrs.field(
        default=0,
        validator=options.whole(0, unit="bytes"),
        metadata=_help(
            "Bytes of memory for the contributions of a height and for merging them; more lie on "
            "the disk, in `node.data_dir`. Each node may have its own. 0: no limit."
        ),
    )
    authority: str = attrs.field(
        default="members",
        validator=options.one_of("members", "ca"),
        metadata=_help(
            'Authority over the members. "members": as many as decide a vote sign a change. "ca": '
            "the certificate authority approves it."
        ),
    )
    max_message_bytes: int = attrs.field(
        default=64 * 2**20,
        validator=options.whole(1024, unit="bytes"),
        metadata=_help("Frames above this are refused before they are parsed."),
    )

    def __attrs_post_init__(self) -> None:
        if self.quorum > self.nodes:
            what = f"is {self.quorum}, and swarm.nodes is {self.nodes}"
            raise OptionError.of(
                "QRES-E105", "quorum", what, f"swarm.quorum <= {self.nodes}, or more nodes"
            )
        if self.participants and not self.quorum <= self.participants <= self.nodes:
            what = f"is {self.participants}, of {self.nodes} nodes, and a round needs {self.quorum}"
            fix = f"{self.quorum} (swarm.quorum) <= swarm.participants <= {self.nodes}"
            raise OptionError.of("QRES-E105", "participants", what, fix)
        if self.roster:
            self._check_roster()

    def _check_roster(self) -> None:
        distinct = len(set(self.roster))
        if not len(self.roster) == distinct == self.nodes:
            known = "1 identity" if len(self.roster) == 1 else f"{len(self.roster)} identities"
            twice = "" if distinct == len(self.roster) else f", {distinct} of them distinct"
            what = f"has {known}{twice}, and swarm.nodes is {self.nodes}"
            raise OptionError.of("QRES-E105", "roster", what, "list every node once, and no others")
        for text in self.roster:
            if len(text) != 64 or set(text) - set("0123456789abcdef"):
                what = f"{text!r} is not 64 lower-case hex digits"
                raise OptionError.of(
                    "QRES-E105", "roster", what, "`qres key show` prints a node's identity"
                )


@attrs.frozen(kw_only=True)
class NodeConfig:
    """The ``[node]`` table: what is this node's own business."""

    name: str = attrs.field(
        default="",
        validator=options.text(
            "[A-Za-z0-9._-]{0,63}", "at most 63 of the characters A-Z a-z 0-9 . _ -"
        ),
        metadata=_help("Name of this node for people; its status shows it beside the identity."),
    )
    data_dir: str | None = attrs.field(
        default=None,
        metadata=_help("Folder for state that must survive: votes, models, plugin state."),
    )
    status: str = attrs.field(
        default="127.0.0.1:8470",
        metadata=_help(
            "Address and port of the status page, `/status` and `/metrics`; port 0 for "
            "any, empty for none. Anybody who reaches it can read it."
        ),
    )
    status_names: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_help(
            "Host names under which the status may be requested, beside addresses and localhost."
        ),
    )
    log_level: str = attrs.field(
        default="info",
        validator=options.one_of("debug", "info", "warning", "error"),
        metadata=_help(
            "Least level of the log: debug, info, warning or error. `--log-level` overrides it. "
            "May change while the node runs (`qres node reload`)."
        ),
    )


@attrs.frozen
class Config:
    """A configuration file, read; plugin tables still raw, in file order."""

    source: str  # path of the file, or a description, for messages
    swarm: SwarmConfig  # the ``[swarm]`` table
    node: NodeConfig = attrs.field(factory=NodeConfig)  # the ``[node]`` table
    # ``[plugins.NAME]`` tables in file order. Presence enables.
    plugins: Mapping[str, Mapping[str, Any]] = attrs.field(factory=dict[str, Mapping[str, Any]])
    # further tables the caller asked for, structured
    sections: Mapping[str, Any] = attrs.field(factory=dict[str, Any])


@runtime_checkable
class Section(Protocol):
    """A further table whose values must fit those of ``[swarm]``."""

    def misfits(self, swarm: SwarmConfig) -> Iterable[Problem]:
        """Every value that does not fit, with the whole key path."""
        ...


class _StrictTypeError(Exception):
    """A value is not of the type its key takes.

    Attributes:
        fix: what to write, where that can be told.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


_TYPES: Final[Mapping[type, str]] = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "a boolean",
    list: "an array",
    dict: "a table",
}
"""What TOML calls them, which is what an author of the file knows."""
_SHOWN: Final = 60


def _wrong_type(expected: str, value: object) -> _StrictTypeError:
    kind = _TYPES.get(type(value), f"a {type(value).__name__}")
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return _StrictTypeError(f"expected {expected}, got {kind}: {text}", _remedy(expected, value))


def _remedy(expected: str, value: object) -> str:
    """Remedy: how to write what was expected; empty where the message says all there is."""
    fix = ""
    if expected == _TYPES[bool]:
        fix = "write true or false, in lower case and without quotes"
    elif expected == _TYPES[str] and not isinstance(value, list | dict):
        fix = "put it in quotes"
    elif expected in (_TYPES[int], _TYPES[float]) and isinstance(value, str):
        fix = "write the number without quotes"
    elif expected == _TYPES[int] and isinstance(value, float):
        fix = f"write {int(value)}" if value.is_integer() else "write a whole number"
    elif expected.startswith("an array") and not isinstance(value, dict):
        fix = "put the values in [ ], with commas between them"
    elif expected.startswith(("a table", "tables")):
        fix = "write its name in [ ] on a separate line, and its keys below it"
    return fix


def _strict(kind: Any) -> Any:
    def check(value: Any, _target: type) -> Any:
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise _wrong_type(_TYPES.get(kind, kind.__name__), value)
        if type(value) is int and not -(2**63) <= value < 2**63:
            msg = "must fit 64 bits"
            raise ValueError(msg)
        if kind is float and not math.isfinite(value):
            msg = f"must be finite: {value}"
            raise ValueError(msg)
        return kind(value)

    return check


_ARRAYS: Final[Mapping[Any, Any]] = {
    tuple: tuple,
    list: list,
    set: set,
    frozenset: frozenset,
    Sequence: tuple,
    AbstractSet: frozenset,
}
_TABLES: Final = (dict, Mapping)


def _each(items: Iterable[tuple[Any, Any, Any]], target: Any) -> list[Any]:
    """Structure every ``(index, value, type)``; all that is wrong is reported together."""
    done: list[Any] = []
    errors: list[Exception] = []
    for index, value, kind in items:
        try:
            done.append(_CONVERTER.structure(value, kind))
        except Exception as error:  # noqa: BLE001 - raised again, with all the others
            error.add_note(IterableValidationNote(f"@ index {index}", index, kind))
            errors.append(error)
    if errors:
        # typeshed's ExceptionGroup knows nothing of cattrs' third argument
        raise IterableValidationError(str(target), errors, target)  # pyright: ignore[reportCallIssue]
    return done


def _structure_array(value: Any, target: Any) -> Any:
    if not canonical.is_list(value):
        raise _wrong_type("an array", value)
    kind = get_origin(target) or target
    kinds = get_args(target) or (Any,)
    if kind is tuple and get_args(target) and kinds[-1] is not Ellipsis:
        if len(value) != len(kinds):
            raise _wrong_type(f"an array of {len(kinds)}", value)
    else:
        kinds = kinds[:1] * len(value)
    return _ARRAYS[kind](_each(zip(range(len(value)), value, kinds, strict=True), target))


def _structure_table(value: Any, target: Any) -> dict[str, Any]:
    if not canonical.is_map(value):
        raise _wrong_type("a table", value)
    kind = (get_args(target) or (str, Any))[1]
    items = [(repr(key), item, kind) for key, item in value.items()]
    return dict(zip(value, _each(items, target), strict=True))


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)

    def class_factory(target: Any) -> Any:
        inner = converter.gen_structure_attrs_fromdict(target)

        def structure_class(value: Any, kind: Any) -> Any:
            if not canonical.is_map(value):
                raise _wrong_type("a table", value)
            return inner(value, kind)

        return structure_class

    def is_array(target: Any) -> bool:
        return (get_origin(target) or target) in _ARRAYS

    def is_table(target: Any) -> bool:
        return (get_origin(target) or target) in _TABLES

    converter.register_structure_hook_func(is_array, _structure_array)
    converter.register_structure_hook_func(is_table, _structure_table)
    converter.register_structure_hook_factory(attrs.has, class_factory)
    for kind in (int, float, bool, str, bytes):
        converter.register_structure_hook(kind, _strict(kind))
    return converter


_CONVERTER: Final = _make_converter()


def _problems(error: BaseException, path: str, known: tuple[str, ...]) -> Iterator[Problem]:
    if isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            yield from _problems(inner, _extend(path, inner), _keys_of(error))
    elif isinstance(error, ForbiddenExtraKeysError):
        known = _keys_of(error)
        moved: Mapping[str, str] = getattr(error.cl, "MOVED", {})
        gone: Mapping[str, tuple[str, str]] = getattr(error.cl, "GONE", {})
        for key in sorted(error.extra_fields):
            if key in gone:
                why, instead = gone[key]
                yield Problem("QRES-E102", f"{path}.{key}", why, instead)
                continue
            hint = moved.get(key) or did_you_mean(key, known)
            yield Problem("QRES-E102", f"{path}.{key}", "unknown key", hint)
    elif isinstance(error, KeyError):
        table, _, key = path.rpartition(".")
        yield Problem("QRES-E103", path, "required key is missing", f"add {key} = … to [{table}]")
    elif isinstance(error, _StrictTypeError):
        yield Problem("QRES-E104", path, str(error), error.fix)
    elif isinstance(error, TypeError):
        yield Problem("QRES-E104", path, str(error))
    elif isinstance(error, OptionError):
        for problem in error.problems:
            yield attrs.evolve(problem, where=f"{path}.{problem.where}")
    elif isinstance(error, QresError):
        for problem in error.problems:
            yield attrs.evolve(problem, where=path)
    else:
        yield Problem("QRES-E105", path, str(error))


def _keys_of(error: BaseException) -> tuple[str, ...]:
    cl = getattr(error, "cl", None)
    if not cl or not attrs.has(cl):
        return ()
    return tuple(field.name for field in attrs.fields(cl) if field.init)


def _extend(path: str, error: BaseException) -> str:
    for note in getattr(error, "__notes__", ()):
        if isinstance(note, AttributeValidationNote):
            return f"{path}.{note.name}"
        if isinstance(note, IterableValidationNote):
            return f"{path}[{note.index}]"
    return path


def structure(raw: object, kind: type[T], path: str) -> T:
    """Turn a raw table into an attrs class, strictly.

    The fields of the class are the keys. A class variable ``MOVED`` may say, by key, what to write
    in place of a key that it had once. ``GONE`` may say, by key, why there is no such key any more,
    and what to do. ``path``: key path of the table, for messages. Raises
    ConfigError: every problem of the table, with key paths.
    """
    if type(raw) is not dict:
        wrong = _wrong_type("a table", raw)
        raise ConfigError.of("QRES-E104", path, str(wrong), wrong.fix)
    try:
        return _CONVERTER.structure(cast("dict[str, Any]", raw), kind)
    except Exception as error:
        raise ConfigError(tuple(_problems(error, path, ()))) from error


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML 1.1 file of at most 1 MiB. A byte order mark before UTF-8 is skipped.

    Raises ConfigError: QRES-E101.
    """
    text = read_text(path, MAX_CONFIG_BYTES)
    try:
        return tomli.loads(text)
    except (ValueError, RecursionError) as error:  # not every ValueError is a TOMLDecodeError
        fix = "strings stand in quotes, true and false in lower case, and a key is set once"
        raise ConfigError.of("QRES-E101", str(path), f"not TOML: {error}", fix) from error


def parse(
    raw: Mapping[str, Any], *, source: str, sections: Mapping[str, type] | None = None
) -> Config:
    """Structure a whole configuration.

    Plugin tables are structured later, by :mod:`qres_core.kernel.assembly`. ``source``: where it
    came from, for messages. ``sections``: attrs classes of further tables to accept, by name. A
    missing one is built from its defaults. One that is a :class:`Section` is held against
    ``[swarm]``. Raises ConfigError: every problem found.
    """
    sections = sections or {}
    problems: list[Problem] = []
    tables: dict[str, Any] = {}
    known = {"swarm", "node", "plugins", *sections}
    for key in raw:
        if key not in known:
            hint = did_you_mean(key, known)
            problems.append(Problem("QRES-E102", key, "unknown table", hint))
    if "swarm" not in raw:
        fix = "add [swarm]; `qres init` writes a file to begin with"
        problems.append(Problem("QRES-E103", "swarm", "required table is missing", fix))
    for key, kind in {"swarm": SwarmConfig, "node": NodeConfig, **sections}.items():
        if key == "swarm" and key not in raw:
            continue
        try:
            tables[key] = structure(raw.get(key, {}), kind, key)
        except ConfigError as error:
            problems.extend(error.problems)
    if "swarm" in tables:
        for table in tables.values():
            if isinstance(table, Section):
                problems.extend(table.misfits(tables["swarm"]))
    plugins = raw.get("plugins", {})
    if type(plugins) is not dict:
        wrong = _wrong_type("tables [plugins.NAME]", plugins)
        problems.append(Problem("QRES-E104", "plugins", str(wrong), wrong.fix))
        plugins = {}
    for name, table in cast("dict[str, Any]", plugins).items():
        if type(table) is not dict:
            what = str(_wrong_type("a table", table))
            fix = f"write [plugins.{name}] on a separate line, and its keys below it"
            problems.append(Problem("QRES-E104", f"plugins.{name}", what, fix))
    if problems:
        raise ConfigError(problems)
    return Config(
        source,
        tables["swarm"],
        tables["node"],
        dict(cast("dict[str, dict[str, Any]]", plugins)),
        {key: tables[key] for key in sections},
    )


def load(path: Path, *, sections: Mapping[str, type] | None = None) -> Config:
    """Read and structure a configuration file.

    Raises ConfigError: QRES-E101 to QRES-E105, all problems at once.
    """
    return parse(read_toml(path), source=str(path), sections=sections)
