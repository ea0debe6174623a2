"""The configuration file is read strictly: nothing converted, nothing ignored, all told at once."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from qres_core import Envelope, options
from qres_core.contract.types import MAX_WEIGHT
from qres_core.errors import ConfigError, Problem, WireError
from qres_core.kernel.config import (
    MAX_CONFIG_BYTES,
    Config,
    NodeConfig,
    SwarmConfig,
    load,
    parse,
    read_toml,
)
from qres_core.training.table import TrainerConfig

SwarmTable = Callable[..., dict[str, Any]]
ROSTER = tuple(f"{index:064x}" for index in range(4))


def problems(raw: Any, sections: Mapping[str, type] | None = None) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        parse(raw, source="test.toml", sections=sections)
    return list(caught.value.problems)


def codes(found: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.code, problem.where) for problem in found]


# ── the file ──────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def written(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(octets: bytes) -> Path:
        path = tmp_path / "qres.toml"
        path.write_bytes(octets)
        return path

    return write


def unreadable(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("QRES-E101", str(path))
    return str(problem)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in unreadable(tmp_path / "qres.toml")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert "is a folder, not a file" in unreadable(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "qres.toml"
    os.mkfifo(path)
    assert "is a pipe, not a file" in unreadable(path)


@pytest.mark.skipif(not Path("/dev/zero").is_char_device(), reason="the system has no such device")
def test_a_device_is_refused() -> None:
    assert "is a device, not a file" in unreadable(Path("/dev/zero"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_file_that_becomes_a_pipe_while_it_is_opened_is_refused(
    written: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(b"a = 1")
    opened = os.open

    def exchange(name: str, flags: int) -> int:
        path.unlink()
        os.mkfifo(path)
        return opened(name, flags)

    monkeypatch.setattr(os, "open", exchange)
    assert "is a pipe, not a file" in unreadable(path)


def test_a_file_larger_than_the_disk_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "qres.toml"
    with path.open("wb") as file:
        file.truncate(2**40)
    assert str(MAX_CONFIG_BYTES) in unreadable(path)


def test_a_path_that_cannot_exist_is_no_crash() -> None:
    assert "null byte" in unreadable(Path("a\0b"))


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"name = '\xff'", "not UTF-8: byte 0xff in line 1"),
        (
            "a = 1\nname = 'é'".encode("latin-1"),
            "not UTF-8: byte 0xe9 in line 2; it may be Latin-1 (Windows-1252)",
        ),
        ("name = 'é'".encode("latin-1"), "iconv -f LATIN1 -t UTF-8"),
        ("a = 1".encode("utf-16"), "not UTF-8: it begins with the byte order mark of UTF-16"),
        ("a = 1".encode("utf-16"), "iconv -f UTF-16 -t UTF-8"),
        ("a = 1".encode("utf-32"), "not UTF-8: it begins with the byte order mark of UTF-32"),
        ("a = 1".encode("utf-16-le"), "as in UTF-16LE"),
        ("a = 1".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8"),
        (b"\xef\xbb\xbf\xef\xbb\xbfa = 1", "not TOML"),  # a second byte order mark
        (b"[swarm", "not TOML"),
        (b"a = 1\na = 2", "not TOML"),
        (b"[a]\n[a]\n", "not TOML"),
        (b"a = 1\n[a]\nb = 2", "not TOML"),
        (b"a = 2026-13-45", "not TOML"),
        (b"a = 01", "not TOML"),
        (b"a = 'x\ny'", "not TOML"),
        (b"a = " + b"9" * 5000, "not TOML"),
        (b"a = " + b"[" * 100_000, "not TOML"),
        (b"a = " + b"{a=" * 100_000, "not TOML"),
        (b"a." * 100_000 + b"a = 1", "not TOML"),
    ],
    ids=range(20),
)
def test_what_is_not_toml_is_refused(
    written: Callable[[bytes], Path], octets: bytes, words: str
) -> None:
    assert words in unreadable(written(octets))


def test_a_byte_order_mark_before_utf_8_is_skipped(written: Callable[[bytes], Path]) -> None:
    assert read_toml(written("\ufeffname = 'é'\r\n".encode())) == {"name": "é"}


def test_the_size_is_bounded_before_parsing(written: Callable[[bytes], Path]) -> None:
    fits = b"#" * (MAX_CONFIG_BYTES - 1) + b"\n"
    assert read_toml(written(fits)) == {}
    assert str(MAX_CONFIG_BYTES) in unreadable(written(b"#" + fits))


def test_toml_1_1_is_understood(written: Callable[[bytes], Path]) -> None:
    text = rb"""
    table = {
        one = 1,  # a comment, a new line and a trailing comma inside an inline table
        two = 2,
    }
    escapes = "\e[0m\x41"
    short = 07:32
    """
    found = read_toml(written(text))
    assert found["table"] == {"one": 1, "two": 2}
    assert found["escapes"] == "\x1b[0mA"
    assert (found["short"].hour, found["short"].second) == (7, 0)


def test_load_reads_and_structures(written: Callable[[bytes], Path]) -> None:
    path = written(
        b"""
        [plugins.zeta]
        [plugins.alpha]
        f = 1
        [swarm]
        name = "digits"
        nodes = 4
        byzantine = 1
        quorum = 3
        deadline = 2
        [plugins.mid]
        [node]
        data_dir = "state"
        """
    )
    config = load(path)
    assert config.source == str(path)
    assert config.swarm == SwarmConfig(name="digits", nodes=4, byzantine=1, quorum=3, deadline=2.0)
    assert type(config.swarm.deadline) is float
    assert config.node == NodeConfig(data_dir="state")
    assert list(config.plugins.items()) == [("zeta", {}), ("alpha", {"f": 1}), ("mid", {})]


def test_a_whole_number_too_long_to_print_is_refused(written: Callable[[bytes], Path]) -> None:
    endless = "0x" + "f" * 20_000
    lines = ["[swarm]", f"name = {endless}", f"nodes = {endless}", f"deadline = {endless}"]
    with pytest.raises(ConfigError):
        load(written("\n".join(lines).encode()))


# ── tables ────────────────────────────────────────────────────────────────────────────────────────


def test_the_swarm_table_is_required() -> None:
    (problem,) = problems({})
    assert (problem.code, problem.where) == ("QRES-E103", "swarm")
    assert problem.what == "required table is missing"
    assert problem.fix.startswith("add [swarm]; ")


@pytest.mark.claim("C-config-1")
def test_an_unknown_table_is_refused_with_a_suggestion(swarm_table: SwarmTable) -> None:
    (problem,) = problems({"swarm": swarm_table(), "plugin": {"krum": {}}})
    assert codes([problem]) == [("QRES-E102", "plugin")]
    assert problem.fix == "did you mean 'plugins'?"


@pytest.mark.parametrize("value", [1, 4])
def test_options_that_went_are_refused_with_what_to_do(swarm_table: SwarmTable, value: int) -> None:
    raw = {"swarm": swarm_table(fragments=value), "trainer": {"keep_rest": bool(value % 2)}}
    found = problems(raw, {"trainer": TrainerConfig})
    assert {each.where for each in found} == {"swarm.fragments", "trainer.keep_rest"}
    for each in found:
        assert each.code == "QRES-E102"
        assert each.what.startswith("is gone")
        assert each.fix.startswith("leave it out")


def test_a_section_is_unknown_until_it_is_asked_for(swarm_table: SwarmTable) -> None:
    raw = {"swarm": swarm_table(), "study": {"rounds": 3}}
    assert codes(problems(raw)) == [("QRES-E102", "study")]
    assert parse(raw, source="", sections={"study": Study}).sections["study"] == Study(3)


@pytest.mark.parametrize("value", [3, "x", [], [{}], True, None])
@pytest.mark.parametrize("table", ["swarm", "node", "study", "plugins", "plugins.krum"])
def test_what_should_be_a_table_must_be_one(
    swarm_table: SwarmTable, table: str, value: object
) -> None:
    raw: dict[str, Any] = {"swarm": swarm_table(), "plugins": {}}
    if table == "plugins.krum":
        raw["plugins"]["krum"] = value
    else:
        raw[table] = value
    (problem,) = problems(raw, {"study": Study})
    assert codes([problem]) == [("QRES-E104", table)]
    assert problem.what.startswith("expected a table" if table != "plugins" else "expected tables")
    assert json.dumps(value) in problem.what


@attrs.frozen
class Network:
    loss: float = 0.0


@attrs.frozen(kw_only=True)
class Plan:
    name: str
    network: Network = attrs.field(factory=Network)
    mode: str = attrs.field(default="fast", validator=options.one_of("fast", "exact"))


@attrs.frozen
class Study:
    rounds: int = attrs.field(default=1, validator=options.whole(1))
    plan: Plan | None = None
    plans: tuple[Plan, ...] = ()


def test_nested_sections_are_structured_and_default(swarm_table: SwarmTable) -> None:
    config = parse({"swarm": swarm_table()}, source="", sections={"study": Study})
    assert config.sections == {"study": Study()}
    study = {"plan": {"name": "a", "network": {"loss": 0.5}}, "plans": [{"name": "b"}]}
    raw = {"swarm": swarm_table(), "study": study}
    found = parse(raw, source="", sections={"study": Study}).sections["study"]
    assert found == Study(plan=Plan(name="a", network=Network(0.5)), plans=(Plan(name="b"),))


def test_all_problems_of_all_tables_come_at_once(swarm_table: SwarmTable) -> None:
    swarm = swarm_table(nodes="4", quorom=3, insecure="false")
    del swarm["quorum"]
    raw = {
        "swarm": swarm,
        "node": {"data_dir": 7},
        "plugins": {"krum": 3, "dp": {}},
        "study": {
            "rounds": 0.5,
            "plan": {"network": {"loss": "much", "lose": 1}},
            "plans": [{"name": "ok"}, {"name": 5}],
        },
        "extra": {},
    }
    assert sorted(codes(problems(raw, {"study": Study}))) == [
        ("QRES-E102", "extra"),
        ("QRES-E102", "study.plan.network.lose"),
        ("QRES-E102", "swarm.quorom"),
        ("QRES-E103", "study.plan.name"),
        ("QRES-E103", "swarm.quorum"),
        ("QRES-E104", "node.data_dir"),
        ("QRES-E104", "plugins.krum"),
        ("QRES-E104", "study.plan.network.loss"),
        ("QRES-E104", "study.plans[1].name"),
        ("QRES-E104", "study.rounds"),
        ("QRES-E104", "swarm.insecure"),
        ("QRES-E104", "swarm.nodes"),
    ]


def test_a_choice_is_refused_with_a_suggestion(swarm_table: SwarmTable) -> None:
    (problem,) = problems({"swarm": swarm_table(topology="gosip")})
    assert "did you mean 'gossip'?" in problem.fix
    (problem,) = problems(
        {"swarm": swarm_table(), "study": {"plan": {"name": "a", "mode": "slow"}}},
        {"study": Study},
    )
    assert codes([problem]) == [("QRES-E105", "study.plan.mode")]


def test_defaults_of_the_swarm(swarm_table: SwarmTable) -> None:
    swarm = parse({"swarm": {**swarm_table(), "insecure": False}}, source="").swarm
    assert not swarm.insecure, "nothing but the file itself can admit that a swarm is insecure"
    assert swarm.weight_cap == 1
    assert swarm.roster == ()


# ── the swarm's promises ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nodes": 0}, "must be an integer of at least 1, got 0"),
        ({"byzantine": -1}, "must be an integer of at least 0, got -1"),
        ({"quorum": 0}, "must be an integer of at least 1, got 0"),
        ({"quorum": 5}, "is 5, and swarm.nodes is 4"),
        ({"deadline": 0}, "must be a finite number of at least 0.001"),
        ({"deadline": -1.5}, "must be a finite number of at least 0.001 (seconds), got -1.5"),
        ({"vote_timeout": 0.0}, "must be a finite number of at least 0.001"),
        ({"weight_cap": 0}, "must be an integer in 1..1073741824, got 0"),
        ({"weight_cap": MAX_WEIGHT + 1}, "must be an integer in 1..1073741824"),
        ({"scale": -33}, "must be an integer in -32..32"),
        ({"scale": 33}, "must be an integer in -32..32, got 33"),
        ({"standing_tolerance": -0.1}, "must be a number in 0..1"),
        ({"standing_tolerance": 1.1}, "must be a number in 0..1"),
        ({"max_message_bytes": 1023}, "must be an integer of at least 1024 (bytes)"),
        ({"topology": "star"}, 'must be one of "gossip", "coordinator"'),
        ({"name": ""}, "must be 1 to 64 of"),
        ({"name": "my swarm"}, "'my swarm'"),
        ({"name": "é"}, "must be 1 to 64"),
        ({"name": "a" * 65}, "must be 1 to 64"),
        ({"name": "digits\n"}, "must be 1 to 64"),
        ({"nodes": 2**63}, "64 bits"),
        ({"deadline": 10**400}, "64 bits"),
        ({"roster": ROSTER[:3]}, "has 3 identities"),
        ({"roster": [*ROSTER, ROSTER[0]]}, "has 5 identities, 4 of them distinct"),
        ({"roster": [*ROSTER[:3], ROSTER[0]]}, "3 of them distinct, and swarm.nodes is 4"),
        ({"roster": [*ROSTER[:3], "0" * 63]}, "not 64 lower-case hex digits"),
        ({"roster": [*ROSTER[:3], "F" * 64]}, "not 64 lower-case hex digits"),
        ({"roster": [*ROSTER[:3], "٣" * 64]}, "not 64 lower-case hex digits"),
    ],
)
def test_values_that_cannot_work_are_refused(
    swarm_table: SwarmTable, changes: dict[str, Any], words: str
) -> None:
    if "roster" in changes:
        changes = {"roster": list(changes["roster"])}
    (problem,) = problems({"swarm": swarm_table(**changes)})
    assert problem.code == "QRES-E105"
    assert problem.where == f"swarm.{next(iter(changes))}"
    assert words in problem.what


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["deadline", "vote_timeout", "standing_tolerance"])
def test_numbers_of_toml_that_are_not_finite_are_refused(
    swarm_table: SwarmTable, key: str, value: float
) -> None:
    read = tomli.loads(f"x = {value}")["x"]
    assert read == value or math.isnan(read), "TOML has these values"
    assert codes(problems({"swarm": swarm_table(**{key: value})})) == [
        ("QRES-E105", f"swarm.{key}")
    ]
    with pytest.raises(ValueError, match=r"must be a (finite )?number"):
        SwarmConfig(**{**swarm_table(), key: value})


@pytest.mark.parametrize("value", [(), "abc", {"a": 1}, 3])
def test_a_roster_is_an_array(swarm_table: SwarmTable, value: object) -> None:
    assert codes(problems({"swarm": swarm_table(roster=value)})) == [("QRES-E104", "swarm.roster")]


def test_a_roster_of_all_nodes_is_kept_in_order(swarm_table: SwarmTable) -> None:
    backwards = list(reversed(ROSTER))
    swarm = parse({"swarm": swarm_table(roster=backwards)}, source="").swarm
    assert swarm.roster == tuple(backwards)


@given(name=st.text(max_size=70))
@example("a")
@example("a" * 64)
@example("a/b.c-d_e")
def test_a_swarm_may_have_a_name_exactly_if_a_message_can_carry_it(name: str) -> None:
    """A name the envelope refuses would stop every node at its first message."""
    try:
        Envelope(name, "contribution", 1, bytes(32), bytes(32), 0, 0, b"")
    except WireError:
        sendable = False
    else:
        sendable = True
    raw = {"swarm": {"name": name, "nodes": 1, "byzantine": 0, "quorum": 1}}
    try:
        parse(raw, source="")
    except ConfigError:
        assert not sendable
    else:
        assert sendable


# ── whatever TOML can hold ────────────────────────────────────────────────────────────────────────

KEYS = st.sampled_from(
    ["swarm", "node", "plugins", "study", "plan", "plans", "network", "loss", "rounds"]
    + [field.name for field in attrs.fields(SwarmConfig)]
) | st.text(max_size=5)
SCALARS = (
    st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | st.text(max_size=8)
    | st.datetimes()
    | st.dates()
    | st.times()
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
TABLES = st.dictionaries(KEYS, VALUES, max_size=6)
_REQUIRED = {"name": st.just("s"), "nodes": st.integers(1, 5), "byzantine": st.just(0)}
_PLAUSIBLE = {
    **{field.name: st.integers(0, 3) | VALUES for field in attrs.fields(SwarmConfig)},
    "topology": st.sampled_from(["gossip", "coordinator"]),
    "insecure": st.booleans(),
}
SWARMS = st.fixed_dictionaries(
    {**_REQUIRED, "quorum": st.just(1)},
    optional={key: value for key, value in _PLAUSIBLE.items() if key not in (*_REQUIRED, "quorum")},
)


@settings(max_examples=300)
@given(raw=TABLES | st.fixed_dictionaries({"swarm": SWARMS | VALUES}, optional={"study": VALUES}))
def test_arbitrary_tables_give_a_configuration_or_a_named_error(raw: dict[str, Any]) -> None:
    try:
        config = parse(raw, source="fuzz", sections={"study": Study})
    except ConfigError as error:
        for problem in error.problems:
            assert re.match(r"QRES-E10[2345]$", problem.code)
            assert problem.what
        return
    event("accepted")
    assert type(config) is Config
    assert set(raw) <= {"swarm", "node", "plugins", "study"}
    # Nothing was converted: what was read is what was written, but for whole numbers in floats.
    for key, value in raw["swarm"].items():
        kept = getattr(config.swarm, key)
        assert kept == (tuple(value) if isinstance(value, list) else value)
        assert isinstance(kept, bool) == isinstance(value, bool)
