"""The shared settings: what all nodes must have alike, and how two nodes differ."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qres_core import Claims, Update, Verdict, hookimpl, options
from qres_core.builtin.memory import Memory
from qres_core.contract import canonical
from qres_core.contract.rounds import RoundInfo
from qres_core.contract.wire import Envelope
from qres_core.errors import CompatibilityError, PluginError, WireError
from qres_core.kernel.assembly import assemble, enable, plugin_class
from qres_core.kernel.config import Config, SwarmConfig
from qres_core.kernel.diagnosis import diagnose
from qres_core.kernel.discovery import Status, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.settings import (
    SETTINGS_BYTES,
    Setting,
    SharedSettings,
    shared_settings,
)

SWARM: Final = SwarmConfig(name="s", nodes=4, byzantine=0, quorum=3, insecure=True)


@attrs.frozen(kw_only=True)
class Inner:
    """A table of options."""

    depth: int = 1
    folder: str = attrs.field(default="", metadata=options.local("A folder."))


@attrs.frozen(kw_only=True)
class Signer:
    """A plugin with an option of every kind."""

    strength: int = 1
    radius: float = 0.5
    mode: str = "a"
    strict: bool = True
    names: tuple[str, ...] = ()
    chosen: frozenset[int] = frozenset()
    table: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    inner: Inner = Inner()
    threads: int = attrs.field(default=1, metadata=options.local("Threads."))
    reference: str = attrs.field(default="", metadata=options.local("A file.", presence=True))
    passphrase: str = attrs.field(default="", validator=options.text(secret=True))

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        """Unused."""
        return envelope.payload_digest

    @hookimpl
    def authenticate(self, envelope: Envelope) -> Verdict:
        """Unused."""
        raise NotImplementedError


@attrs.frozen
class Watcher:
    """Watches, and nothing else."""

    port: int = 1

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """Unused."""
        return {}


@attrs.frozen
class Masker:
    """Changes updates."""

    @property
    def claims(self) -> Claims:
        """Nothing."""
        return Claims(tolerates=None)

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Unused."""
        del round_info
        return update


def settings(*plugins: tuple[str, object], swarm: SwarmConfig = SWARM) -> SharedSettings:
    return shared_settings(swarm, [enable(instance, name) for name, instance in plugins])


# ── [swarm] ───────────────────────────────────────────────────────────────────────────────────

SHARED: Final[Mapping[str, Any]] = {
    "name": "t",
    "until": "accuracy >= 0.9",
    "topology": "coordinator",
    "insecure": False,
    "scale": 2,
    "weight_cap": 9,
    "standing_tolerance": 0.2,
    "authority": "ca",
    "proof_checks": "committee",
    "aggregation": "sharded",
    "shard_committee": 57,
    "participants": 4,
    "max_message_bytes": 2048,
}
OWN: Final[Mapping[str, Any]] = {
    "nodes": 5,
    "byzantine": 1,
    "quorum": 4,
    "roster": tuple(f"{number:064x}" for number in range(4)),
    "roster_epoch": 3,
    "deadline": 1.0,
    "vote_timeout": 1.0,
    "deadline_stretch": 2.0,
    "interval": 1.0,
    "memory": 2**20,
    "rounds": 7,
}


def test_every_key_of_the_swarm_is_shared_or_left_out_on_purpose() -> None:
    assert {field.name for field in attrs.fields(SwarmConfig)} == {*SHARED, *OWN}
    values = settings().values
    assert [key for key in values if key != "plugins"] == sorted(f"swarm.{key}" for key in SHARED)


@pytest.mark.parametrize("key", SHARED)
def test_a_shared_key_changes_the_digest_and_is_named_with_both_values(key: str) -> None:
    here, there = settings(), settings(swarm=attrs.evolve(SWARM, **{key: SHARED[key]}))
    assert here.digest != there.digest
    (sentence,) = here.differences(there)
    assert sentence.startswith(f"swarm.{key} is ")
    (back,) = there.differences(here)
    mine, theirs = sentence.removeprefix(f"swarm.{key} is ").split(" here and ")
    assert back == f"swarm.{key} is {theirs.removesuffix(' there')} here and {mine} there"


@pytest.mark.parametrize("key", OWN)
def test_a_key_that_may_differ_changes_nothing(key: str) -> None:
    here, there = settings(), settings(swarm=attrs.evolve(SWARM, **{key: OWN[key]}))
    assert here == there
    assert hash(here) == hash(there)
    assert here.differences(there) == ()


def test_a_difference_is_one_plain_sentence() -> None:
    there = settings(swarm=attrs.evolve(SWARM, scale=2, topology="coordinator"))
    assert settings().differences(there) == (
        "swarm.scale is 0 here and 2 there",
        'swarm.topology is "gossip" here and "coordinator" there',
    )


# ── plugins ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("strength", 2, "plugins.p.strength is 1 here and 2 there"),
        ("radius", 0.1, "plugins.p.radius is 0.5 here and 0.1 there"),
        ("mode", "b", 'plugins.p.mode is "a" here and "b" there'),
        ("strict", False, "plugins.p.strict is true here and false there"),
        ("names", ("x",), 'plugins.p.names is [] here and ["x"] there'),
        ("chosen", frozenset((2, 1)), "plugins.p.chosen is [] here and [1, 2] there"),
        ("table", {"k": 1.0}, 'plugins.p.table is [] here and [["k", 1.0]] there'),
        ("inner", Inner(depth=3), "plugins.p.inner.depth is 1 here and 3 there"),
        ("reference", "a.npy", "plugins.p.reference is false here and true there"),
    ],
)
def test_a_shared_option_changes_the_digest_and_is_named(
    key: str, value: object, said: str
) -> None:
    changed: Any = attrs.evolve(Signer(), **{key: value})
    here, there = settings(("p", Signer())), settings(("p", changed))
    assert here.digest != there.digest
    assert here.differences(there) == (said,)


@pytest.mark.parametrize(
    ("key", "value"),
    [("threads", 2), ("passphrase", "open sesame"), ("inner", Inner(folder="state"))],
)
def test_a_local_option_changes_nothing(key: str, value: object) -> None:
    changed: Any = attrs.evolve(Signer(), **{key: value})
    here, there = settings(("p", Signer())), settings(("p", changed))
    assert here.to_bytes() == there.to_bytes()


def test_of_a_file_only_whether_it_is_set_is_shared() -> None:
    here, there = (settings(("p", Signer(reference=path))) for path in ("a.npy", "b.npy"))
    assert here == there


@attrs.frozen
class Bound:
    """Its file changes what a node accepts."""

    center: str = attrs.field(default="", metadata=options.local("A file.", content=True))

    @hookimpl
    def sign(self, envelope: Envelope) -> bytes:
        return envelope.signing_digest


def test_of_a_file_that_changes_what_is_checked_the_content_is_shared(tmp_path: Path) -> None:
    def at(name: str, content: bytes | None = None) -> SharedSettings:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        return settings(("p", Bound(str(path))))

    here = at("a", b"one vector")
    assert here == at("b", b"one vector"), "the path is each node's own"
    other = at("a", b"another vector")
    (said,) = here.differences(other)
    assert said.startswith("plugins.p.center is")
    assert len({found.digest for found in (here, other, at("none"), settings(("p", Bound())))}) == 4


def first_line(octets: bytes) -> bytes:
    line, _, rest = octets.partition(b"\n")
    if not rest:
        raise ValueError(octets)
    return line


@attrs.frozen
class Headed(Bound):
    """Of its file the first line counts."""

    center: str = attrs.field(default="", metadata=options.local("A file.", content=first_line))


def test_a_plugin_may_say_what_of_its_file_must_be_the_same(tmp_path: Path) -> None:
    def of(content: bytes) -> SharedSettings:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.write_bytes(content)
        return settings(("p", Headed(str(path))))

    here = of(b"key\n2023")
    assert here == of(b"key\n2033")
    unreadable = of(b"key")
    assert unreadable == of(b"key\n" + bytes(2**23)), "it has a limit"
    assert unreadable.values["plugins.p.center"] == "unreadable"
    assert len({found.digest for found in (here, of(b"lock\n2023"), unreadable)}) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("plugin", [Bound, Headed])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(
    plugin: Callable[[str], Bound], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", "nul\0"):
        found = settings(("p", plugin(str(path))))
        assert found.values["plugins.p.center"] == "unreadable"


def test_a_secret_is_not_in_the_settings_among_several_validators_either() -> None:
    @attrs.frozen
    class Two(Signer):
        word: str = attrs.field(
            default="", validator=[options.text(secret=True), options.text("[a-z]*")]
        )

    found = settings(("p", Two(**dict.fromkeys(("word", "passphrase"), "sesame"))))
    assert b"sesame" not in found.to_bytes()


def test_a_plugin_that_only_one_node_has_is_named_once() -> None:
    here, there = settings(("p", Signer()), ("q", Signer())), settings(("p", Signer()))
    assert here.differences(there) == ("the plugin q is enabled here and not there",)
    assert there.differences(here) == ("the plugin q is enabled there and not here",)


def test_plugins_that_carry_or_watch_are_a_nodes_own_business() -> None:
    bare = settings(("p", Signer()))
    assert settings(("p", Signer()), ("watch", Watcher(2)), ("memory", Memory(seed=3))) == bare


def test_the_order_of_plugins_counts_where_it_changes_the_result() -> None:
    assert settings(("p", Signer()), ("q", Signer())) == settings(("q", Signer()), ("p", Signer()))
    here, there = (
        settings(*((name, Masker()) for name in names)) for names in (("a", "b"), ("b", "a"))
    )
    assert here.differences(there) == ('order.privatize is ["a", "b"] here and ["b", "a"] there',)


def test_two_plugins_never_share_a_key() -> None:
    nested = settings(("p.inner", Signer()), ("p", Signer()))
    assert {'plugins."p.inner".strength', "plugins.p.strength"} <= set(nested.values)


def test_a_whole_number_counts_as_the_same_real_number() -> None:
    """A file says ``1`` where Python code says ``1.0``."""
    assert settings(("p", Signer(radius=1))) == settings(("p", Signer(radius=1.0)))


@pytest.mark.parametrize("value", [0, 0.0, -0.0])
def test_a_number_of_the_swarm_is_the_same_however_it_is_written(value: float) -> None:
    here = shared_settings(attrs.evolve(SWARM, standing_tolerance=value), [])
    assert here == shared_settings(attrs.evolve(SWARM, standing_tolerance=0.0), [])


def test_values_that_are_equal_only_to_python_differ() -> None:
    kinds: tuple[Setting, ...] = (1, 1.0, True, "1", b"1", (1,), None)
    digests = {SharedSettings({"k": value}).digest for value in kinds}
    assert len(digests) == len(kinds)


def test_an_option_that_cannot_be_compared_is_refused_by_name() -> None:
    with pytest.raises(PluginError) as caught:
        settings(("p", Signer(table={"f": print})))
    (problem,) = caught.value.problems
    assert (problem.code, problem.where) == ("QRES-E206", "plugins.p.table")
    assert "options.local" in problem.fix


def test_an_unknown_mark_is_refused() -> None:
    @attrs.frozen
    class Marked(Signer):
        own: int = attrs.field(default=1, metadata={options.SHARING: "loc"})

    with pytest.raises(PluginError, match=r"QRES-E206 plugins\.p\.own.*'loc'"):
        settings(("p", Marked()))


def test_settings_beyond_the_limit_are_refused_before_anything_starts() -> None:
    with pytest.raises(CompatibilityError, match=r"QRES-E105 plugins.*limit 65536"):
        settings(("p", Signer(names=("x" * SETTINGS_BYTES,))))


def test_the_kernel_and_the_diagnosis_tell_the_settings(
    make_kernel: Callable[..., Kernel], make_config: Callable[..., Config]
) -> None:
    kernel = make_kernel({})
    assert kernel.settings == shared_settings(kernel.swarm, kernel.enabled)
    assert kernel.settings.values["plugins"] == ("mean",)
    config = make_config({"memory": {}, "mean": {}})
    raw = {"swarm": {"name": "s", "nodes": 4, "byzantine": 0, "quorum": 3, "insecure": True}}
    found = diagnose(
        raw | {"plugins": {"memory": {}, "mean": {}}},
        source="here",
        sections={},
        installed=scan(),
    )
    assert found.settings == shared_settings(
        attrs.evolve(config.swarm, name="s"), assemble(config, scan())
    )


# ── first-party plugins ───────────────────────────────────────────────────────────────────────

LOCAL: Final[Mapping[str, set[str]]] = {
    "dp": {"dataset", "new_ledger"},
    "ed25519": {"key", "passphrase_env", "rotations"},
    "pki": {"members", "members_file", "certificates", "crl", "reload_seconds"},
    "replay": {"skew", "window"},
    "secagg": {"patience", "threads", "new_store"},
    "validation": {"candidates", "seconds"},
}
PRESENCE: Final[Mapping[str, set[str]]] = {}
CONTENT: Final[Mapping[str, set[str]]] = {"pki": {"ca"}, "zk": {"center", "direction"}}
ALTOGETHER: Final = {"grpc", "libp2p", "memory"}
"""Transports."""
ALIKE: Final[Mapping[str, set[str]]] = {
    "arc": {"f"},
    "bucketing": {"f", "size"},
    "bulyan": {"f"},
    "caf": {"f"},
    "centred_clipping": {"f", "radius", "iterations", "history"},
    "clipping": {"bound"},
    "dnc": {"f", "filter", "iterations", "coordinates"},
    "dp": {
        *("mode", "clip", "delta", "epsilon", "rounds", "noise_multiplier", "honest", "relation"),
        *("noise", "band", "separation", "unit", "records"),
    },
    "ed25519": {"require_signature"},
    "geometric_median": {"f", "iterations", "smoothing", "weighted", "weight_limit"},
    "krum": {"f", "select"},
    "mda": {"f", "budget"},
    "meamed": {"f"},
    "mean": {"unprotected"},
    "median": {"f", "weighted", "weight_limit"},
    "monna": {"f", "pivot"},
    "nnm": {"f"},
    "pki": {"require_crl"},
    "fedadam": {"learning_rate", "beta1", "beta2", "tau", "restart"},
    "fedavgm": {"learning_rate", "momentum"},
    "fedyogi": {"learning_rate", "beta1", "beta2", "tau", "restart"},
    "public_validation": {"tolerance"},
    "quantize": {"bits"},
    "replay": {"mode"},
    "reputation": {
        *("rule", "start", "reward", "punish", "gamma", "forgetting", "decay", "ban_below"),
        *("ban_rounds", "flood", "ignore", "exponent", "influence_cap", "outlier_factor"),
        *("outlier_rounds", "outlier_sample"),
    },
    "secagg": {
        *("group_size", "min_size", "corrupt", "dropout", "ring", "prg", "bound", "noise_room"),
        *("weights", "max_weight", "bisect"),
    },
    "trimmed_mean": {"f"},
    "validated_mean": {"f", "farthest", "tolerance"},
    "validation": {"tolerance", "candidate_tolerance", "norm_factor", "weight_limit"},
    "zk": {"bound", "k", "security", "clip", "threshold"},
}


def test_every_option_of_every_plugin_here_is_shared_or_local_on_purpose() -> None:
    """A new option must be entered above, so that its author decides."""
    found: dict[str, dict[str | None, set[str]]] = {}
    for name, origin in scan().items():
        if origin.status is Status.INSTALLED and origin.distribution.startswith("qres-"):
            found[name] = {
                mark: set() for mark in (None, options.LOCAL, options.PRESENCE, options.CONTENT)
            }
            for field in attrs.fields(plugin_class(origin)):
                if field.init:
                    found[name][field.metadata.get(options.SHARING)].add(field.name)
    assert set(ALIKE) | ALTOGETHER <= set(found)
    for name in set(found) - ALTOGETHER:
        sides = found[name]
        assert sides[None] == ALIKE.get(name, set()), name
        assert sides[options.LOCAL] == LOCAL.get(name, set()), name
        assert sides[options.PRESENCE] == PRESENCE.get(name, set()), name
        assert sides[options.CONTENT] == CONTENT.get(name, set()), name


def test_transports_are_left_out_altogether() -> None:
    enabled = [enable(plugin_class(scan()[name])(), name) for name in sorted(ALTOGETHER)]
    assert shared_settings(SWARM, enabled) == settings()


PINNED: Final = "32b152b08dd55b9b6e421cd9e6099bfe630e14be8baf92b9b3331145bb559d81"
"""A digest that swarms have in their heads; another encoding needs another version."""

# ── the encoding ──────────────────────────────────────────────────────────────────────────────

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9)
)
_VALUES = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)
_KEYS = st.text(min_size=1, max_size=20).filter(str.isprintable)
_TABLES = st.dictionaries(_KEYS, _VALUES, max_size=6)


@given(_TABLES)
def test_settings_come_back_as_they_were_in_any_order(table: dict[str, Any]) -> None:
    made = SharedSettings(table)
    back = SharedSettings.from_bytes(made.to_bytes())
    assert back == made == SharedSettings(dict(reversed(table.items())))
    assert back.to_bytes() == made.to_bytes()
    assert list(back.values) == sorted(table)
    assert made.differences(back) == ()
    assert copy.deepcopy(made) == made


@given(_TABLES, _TABLES)
def test_settings_differ_by_name_if_and_only_if_their_digests_do(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    here, there = SharedSettings(first), SharedSettings(second)
    said = here.differences(there)
    assert bool(said) == (here.digest != there.digest)
    assert all(sentence.isprintable() and len(sentence) < 500 for sentence in said)


@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_one_named_error(data: bytes) -> None:
    try:
        found = SharedSettings.from_bytes(data)
    except WireError as error:
        assert error.code in {"QRES-E401", "QRES-E402", "QRES-E403", "QRES-E404"}  # noqa: PT017 - either may come
    else:
        assert found.to_bytes() == data


@given(_TABLES, st.data())
def test_settings_with_a_changed_byte_are_other_settings_or_one_named_error(
    table: dict[str, Any], data: st.DataObject
) -> None:
    raw = bytearray(SharedSettings(table).to_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = SharedSettings.from_bytes(bytes(raw))
    except WireError:
        return
    assert found.to_bytes() == raw


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-9, 9)
        | st.text(max_size=6)
        | st.binary(max_size=3),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.integers(-1, 1) | st.text(max_size=3), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_any_value_of_the_encoding_is_settings_or_one_named_error(value: object) -> None:
    for whole in (value, [1, value], [1, {"k": value}], [1, {"k": {0: value}}]):
        data = canonical.dumps(whole)
        try:
            found = SharedSettings.from_bytes(data)
        except WireError as error:
            assert error.code == "QRES-E404"  # noqa: PT017 - either may come
        else:
            assert found.to_bytes() == data


@pytest.mark.parametrize(
    "text",
    ["0.10", "1", "1e5", "+1.0", " 1.0", "0x1p3", "1_0.0", "NaN", "infinity", "..", "\uff11.0"],
)
def test_a_number_has_one_text(text: str) -> None:
    with pytest.raises(WireError, match="QRES-E404"):
        SharedSettings.from_bytes(canonical.dumps([1, {"k": {0: text}}]))
    number = 0.1
    good = canonical.dumps([1, {"k": {0: repr(number)}}])
    assert SharedSettings.from_bytes(good).values["k"] == number


def test_too_many_bytes_and_values_are_refused_before_they_are_read() -> None:
    with pytest.raises(WireError, match="QRES-E401"):
        SharedSettings.from_bytes(bytes(SETTINGS_BYTES + 1))
    many = b"\x82\x01\xa1\x61k\x99\x80\x00" + b"\x00" * 2**15
    with pytest.raises(WireError, match="QRES-E402 frame: a container claims too many items"):
        SharedSettings.from_bytes(many)
    assert SharedSettings.from_bytes(b"\x82\x01\xa1\x61k\x98\x80" + b"\x00" * 128)


def test_another_version_and_keys_that_control_a_terminal_are_refused() -> None:
    wholes: tuple[Any, ...] = (
        [2, {}],
        [True, {}],
        [1, {"": 1}],
        [1, {"\x1b[2J": 1}],
        [1, {"k" * 201: 1}],
    )
    for whole in wholes:
        with pytest.raises(WireError, match="QRES-E404"):
            SharedSettings.from_bytes(canonical.dumps(whole))


def test_values_of_others_are_shown_without_control_characters_and_cut() -> None:
    here = SharedSettings({"k": "a"})
    (said,) = here.differences(SharedSettings({"k": "\x1b[2J\u202e" + "b" * 900}))
    assert said.startswith('k is "a" here and "\\u001b[2J\\u202ebbb')
    assert len(said) < 120
    long = [SharedSettings({"k": "b" * 900 + end}) for end in "xy"]
    (said,) = long[0].differences(long[1])
    assert said.endswith("here and another value that begins alike there")


def test_the_digest_is_the_same_in_another_process_and_for_ever() -> None:
    code = """
from qres_core.kernel.settings import SharedSettings
table = {"b": ("x", "y", "z"), "a": (1, 0.1, "x"), "c": None}
print(SharedSettings(table).digest.hex())
"""
    seen = {
        subprocess.run(
            [sys.executable, "-P", "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    table: dict[str, Setting] = {"c": None, "a": (1, 0.1, "x"), "b": ("x", "y", "z")}
    assert seen == {SharedSettings(table).digest.hex()} == {PINNED}


def test_the_digest_of_a_set_does_not_follow_its_order() -> None:
    words = frozenset(str(number) for number in range(40))
    plugin = attrs.make_class("Chosen", {"words": attrs.field()}, bases=(Signer,))
    ordered = [settings(("p", plugin(words=frozenset(some)))) for some in (words, sorted(words))]
    assert ordered[0] == ordered[1]
