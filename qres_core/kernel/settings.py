"""The shared settings of a swarm: what must not differ between its nodes, as one value.

They are the keys of ``[swarm]``, the options of plugins that decide what a node computes, sends or
accepts, and the digest of weights that do not travel. Everything is shared unless it is left out
here on purpose, or marked :func:`qres_core.contract.options.local` by its plugin: a forgotten mark
refuses a node by name, and never lets two nodes differ in silence.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

import attrs

from qres_core.contract import canonical, options
from qres_core.contract.errors import CompatibilityError, PluginError, WireError
from qres_core.kernel.assembly import Enabled
from qres_core.kernel.config import SwarmConfig

SETTINGS_BYTES: Final = 2**16
"""Most bytes of shared settings, encoded."""
SETTINGS_ITEMS: Final = 2**13
"""Most values of shared settings, of all containers together."""
MAX_KEY: Final = 200
"""Most characters of a key."""
SHORT_DIGEST: Final = 16
"""Hexadecimal digits of a digest that people compare."""

Setting: TypeAlias = "bool | int | float | str | bytes | tuple[Setting, ...] | None"
"""A value of a key. A table is a tuple of pairs, by key."""

_VERSION: Final = 1
_DOMAIN: Final = b"qres/settings/v1\0"
_FLOAT: Final = 0
"""Key of the map that stands for a float, which the encoding does not have."""
_DEEPEST: Final = canonical.MAX_DEPTH - 4
_MOST_READ: Final = 2**23
"""Most bytes of a file of which a plugin says what must not differ."""
_SHOWN: Final = 60
"""Most characters of a value in a sentence."""

_FLOAT_TEXT: Final = re.compile(r"-?[0-9.]{1,24}(e[+-][0-9]{2,3})?|-?inf|nan")

_NOT_SHARED: Final = frozenset(
    (
        # Who takes part, how many may lie and how few close a round are in the roster of the head,
        # which a decision of the swarm may change.
        "nodes",
        "byzantine",
        "quorum",
        "roster",
        "roster_epoch",
        # Clocks decide when a node gives up and never what it accepts: other times cost rounds.
        "deadline",
        "vote_timeout",
        "deadline_stretch",
        # A node that trains sooner waits for the others.
        "interval",
        # What a node has room for.
        "memory",
        # Where this node stops; to the others it is away. `--rounds` overrides it for a node.
        "rounds",
    )
)
"""Keys of ``[swarm]`` that may differ. Two that seem a node's own are shared: a node blames the
sender of a message above its ``max_message_bytes``, and the sender of a word for another goal than
its ``until``, so honest nodes with other values would blame each other."""

_OF_ONE_NODE: Final = frozenset(
    ("setup", "teardown", "status", "round_closed", "transport", "observe")
)
"""A plugin with no other hooks is each node's own business, with all its options. It carries
messages or watches, and no other node computes or checks anything with it. Transports that do not
speak the same protocol never connect. ``round_opened`` is not here: it may open a dialogue; but a
transport that follows the members by it is a node's own all the same."""

_ORDERED: Final = ("privatize", "reveal", "wrap_aggregate")
"""Hooks for which the order of the plugins changes the result. Of all others every plugin must
accept, or each has its own place in the message."""


def _by_key(values: Mapping[str, Setting]) -> Mapping[str, Setting]:
    return MappingProxyType(dict(sorted(values.items())))


@attrs.frozen
class SharedSettings:
    """Settings that must be the same on all nodes of a swarm, sorted by key.

    Two are equal if their digests are. Raises WireError: QRES-E402 to QRES-E404 for values that
    have no encoding within the limits.
    """

    # by dotted key: ``swarm.scale``, ``plugins.krum.f``
    values: Mapping[str, Setting] = attrs.field(converter=_by_key, eq=False)
    digest: bytes = attrs.field(init=False)  # 32 bytes, of the whole

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "digest", hashlib.sha256(_DOMAIN + self.to_bytes()).digest())

    @property
    def short(self) -> str:
        """The first hexadecimal digits of the digest, for people to compare."""
        return self.digest.hex()[:SHORT_DIGEST]

    def on_top_of(self, base: bytes) -> SharedSettings:
        """With the digest of what a trainer trains on top of; as they are where that is nothing."""
        if not base:
            return self
        return SharedSettings({**self.values, "trainer.base": f"sha256:{base.hex()}"})

    def to_bytes(self) -> bytes:
        """The deterministic encoding; :meth:`from_bytes` reads it.

        Raises WireError: QRES-E402 to QRES-E404 for what it cannot hold.
        """
        for key in self.values:
            _check_key(key)
        table = {key: _encode(value) for key, value in self.values.items()}
        data = canonical.dumps([_VERSION, table])
        _check_size(data)
        return data

    @classmethod
    def from_bytes(cls, payload: bytes) -> SharedSettings:
        """Read what :meth:`to_bytes` made.

        Raises WireError: QRES-E401 more than 64 KiB, QRES-E402 malformed, QRES-E403 not canonical,
        QRES-E404 not the settings of a swarm. Nothing else, whatever the bytes.
        """
        value = canonical.loads(payload, max_bytes=SETTINGS_BYTES, max_items=SETTINGS_ITEMS)
        if not canonical.is_list(value) or len(value) != 2 or not canonical.is_map(value[1]):
            raise _invalid("expected a version and a table")
        version, table = value
        if type(version) is not int or version != _VERSION:
            raise _invalid(f"this version of qres-core knows version {_VERSION} of them only")
        return cls({_check_key(key): _decode(item) for key, item in table.items()})

    def __reduce__(self) -> tuple[Callable[[bytes], SharedSettings], tuple[bytes]]:
        # A read-only mapping cannot be copied, and simulations copy kernels to worker processes.
        return SharedSettings.from_bytes, (self.to_bytes(),)

    def differences(self, other: SharedSettings) -> tuple[str, ...]:
        """Differences, one sentence for each key; the values of ``other`` are called *there*.

        Nothing in a sentence controls a terminal, whoever made the other settings, and each is
        short.

        Example:
            >>> here, there = SharedSettings({"swarm.scale": 0}), SharedSettings({"swarm.scale": 2})
            >>> here.differences(there)
            ('swarm.scale is 0 here and 2 there',)
        """
        here, there = _names(self), _names(other)
        alone = [f"the plugin {_word(name)} is enabled here and not there" for name in here - there]
        alone += [
            f"the plugin {_word(name)} is enabled there and not here" for name in there - here
        ]
        # The options of a plugin that only one side has say nothing more.
        mute = tuple(f"{_table(name)}." for name in here ^ there)
        keys = [key for key in {**self.values, **other.values} if not key.startswith(mute)]
        return (*sorted(alone), *filter(None, (self._compared(other, key) for key in sorted(keys))))

    def _compared(self, other: SharedSettings, key: str) -> str:
        mine, theirs = (_known(settings, key) for settings in (self, other))
        if mine == theirs or (key == "plugins" and _both_tuples(self, other)):
            return ""
        shown = [
            _show(settings.values[key]) if key in settings.values else "absent"
            for settings in (self, other)
        ]
        if shown[0] == shown[1]:
            return f"{key} is {shown[0]} here and another value that begins alike there"
        return f"{key} is {shown[0]} here and {shown[1]} there"


def _is_own(hooks: Collection[str]) -> bool:
    """True if a plugin with these hooks is each node's own business."""
    follows = {"round_opened"} if "transport" in hooks else set[str]()
    return (_OF_ONE_NODE | follows).issuperset(hooks)


def shared_settings(swarm: SwarmConfig, enabled: Sequence[Enabled]) -> SharedSettings:
    """The shared settings of a node.

    ``enabled``: its plugins, configured and not set up yet, in file order. Raises PluginError:
    QRES-E206 for an option that can be compared with that of no other node. Raises
    CompatibilityError: QRES-E105 where the settings are too large.
    """
    values: dict[str, Setting] = {
        f"swarm.{field.name}": _plain(_number(field, getattr(swarm, field.name)), field.name, 0)
        for field in attrs.fields(SwarmConfig)
        if field.name not in _NOT_SHARED
    }
    common = [plugin for plugin in enabled if not _is_own(plugin.hooks)]
    values["plugins"] = tuple(sorted(plugin.name for plugin in common))
    for hook in _ORDERED:
        names = tuple(plugin.name for plugin in common if hook in plugin.hooks)
        if len(names) > 1:
            values[f"order.{hook}"] = names
    for plugin in common:
        values.update(_options(plugin.instance, _table(plugin.name)))
    try:
        return SharedSettings(values)
    except WireError as error:
        what = f"what all nodes must have alike cannot be encoded: {error.problems[0].what}"
        fix = "shorten the options of plugins; what is a node's own is to be marked local"
        raise CompatibilityError.of("QRES-E105", "plugins", what, fix) from error


# ── the options of a plugin ───────────────────────────────────────────────────────────────────


def _table(name: str) -> str:
    """The table of a plugin, as a file writes it: two plugins never have one key."""
    bare = name.replace("_", "").replace("-", "").isalnum() and name.isascii()
    return f"plugins.{name}" if bare else f"plugins.{json.dumps(name)}"


def _options(holder: object, where: str) -> Iterator[tuple[str, Setting]]:
    """Key and value of every shared option of an attrs instance, also within its tables."""
    for field in attrs.fields(cast("Any", type(holder))):
        key = f"{where}.{field.name}"
        sharing = field.metadata.get(options.SHARING)
        if sharing not in {None, options.LOCAL, options.PRESENCE, options.CONTENT}:
            what = f"the option is marked {sharing!r}, which is no way to share it"
            fix = "mark it with qres_core.options.local, or not at all"
            raise PluginError.of("QRES-E206", key, what, fix)
        if not field.init or sharing == options.LOCAL or _secret(field.validator):
            continue
        value: object = getattr(holder, field.name)
        if sharing == options.PRESENCE:
            yield key, bool(value)
        elif sharing == options.CONTENT:
            yield key, _content(value, field.metadata.get(options.READS)) if value else None
        elif attrs.has(type(value)):
            yield from _options(value, key)
        else:
            yield key, _plain(_number(field, value), key, 0)


def _number(field: attrs.Attribute[Any], value: object) -> object:
    """The same number, whether a file or Python said it."""
    real = field.type in {float, "float", "float | None"}
    return float(value) if type(value) is int and real else value


def _content(path: object, reads: Callable[[bytes], bytes] | None) -> Setting:
    """Value that stands for a file. The plugin's ``setup`` refuses one that cannot be read."""
    file = Path(str(path))
    try:
        if not file.is_file():  # opening a pipe waits, and a device may have no end
            return "unreadable"
        with file.open("rb") as opened:
            if reads is None:
                return hashlib.file_digest(opened, "sha256").digest()
            octets = opened.read(_MOST_READ + 1)
        if len(octets) <= _MOST_READ:
            return hashlib.sha256(reads(octets)).digest()
    except (OSError, ValueError):
        pass
    return "unreadable"


def _secret(validator: object) -> bool:
    """True if a value must not be repeated, let alone be sent: that of a passphrase."""
    inner: Iterable[object] = getattr(validator, "_validators", ())  # attrs: several in one
    return getattr(validator, "secret", False) is True or any(map(_secret, inner))


def _plain(value: object, key: str, depth: int) -> Setting:
    """A value of an option, of a type that has one encoding."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or type(value) in {bool, str, bytes}:
        return cast("Setting", value)
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if isinstance(value, float):
        return float(value) + 0.0  # numpy's float64 is one; and -0.0 is 0.0
    items = _items(value, key) if depth < _DEEPEST else None
    if items is None:
        what = f"holds a {type(value).__name__}, which cannot be compared between nodes"
        fix = "use numbers, texts and arrays, or mark the option with qres_core.options.local"
        raise PluginError.of("QRES-E206", key, what, fix)
    plain = [_plain(item, key, depth + 1) for item in items]
    ordered = isinstance(value, tuple | list)
    return tuple(plain if ordered else sorted(plain, key=_bytes_of))


def _items(value: object, key: str) -> Iterable[object] | None:
    """Items of an array, a set or a table; ``None`` for anything else."""
    if isinstance(value, tuple | list | set | frozenset):
        return cast("Iterable[object]", value)
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value).items()
    if attrs.has(type(value)):  # in an array: its fields as a table
        return tuple(_options(value, key))
    return None


# ── the encoding ──────────────────────────────────────────────────────────────────────────────


def _invalid(what: str) -> WireError:
    return WireError.of("QRES-E404", "settings", what)


def _check_key(key: object) -> str:
    """A key that may be shown to people as it is."""
    if type(key) is not str or not 0 < len(key) <= MAX_KEY or not key.isprintable():
        raise _invalid(f"a key must be a text of 1 to {MAX_KEY} printable characters")
    return key


def _check_size(data: bytes) -> None:
    """Check that others would read what this node encodes."""
    if len(data) > SETTINGS_BYTES:
        raise _invalid(f"{len(data)} bytes, limit {SETTINGS_BYTES}")
    canonical.loads(data, max_bytes=SETTINGS_BYTES, max_items=SETTINGS_ITEMS)


def _encode(value: Setting) -> object:
    """The value in the data model of the encoding: floats as their shortest exact text."""
    if isinstance(value, float):
        return {_FLOAT: repr(value)}
    if isinstance(value, tuple):
        return [_encode(item) for item in value]
    return value


def _decode(value: object) -> Setting:
    if canonical.is_list(value):
        return tuple(_decode(item) for item in value)
    if canonical.is_map(value):
        text = value.get(_FLOAT)
        if len(value) != 1 or type(text) is not str or not _FLOAT_TEXT.fullmatch(text):
            raise _invalid("a table stands for no number")
        try:
            number = float(text)
        except ValueError:
            number = 0.0
        if repr(number) != text:
            raise _invalid("a number is not in its shortest form")
        return number
    return cast("Setting", value)  # nothing else is decoded but what a setting may be


def _bytes_of(value: Setting) -> bytes:
    return canonical.dumps(_encode(value))


# ── differences ───────────────────────────────────────────────────────────────────────────────


def _known(settings: SharedSettings, key: str) -> bytes:
    """Bytes to compare by: 1, 1.0 and true are equal to Python. Empty where the key is absent."""
    return _bytes_of(settings.values[key]) if key in settings.values else b""


def _names(settings: SharedSettings) -> frozenset[str]:
    """The plugins it has."""
    plugins = settings.values.get("plugins")
    names = plugins if isinstance(plugins, tuple) else ()
    return frozenset(name for name in names if isinstance(name, str))


def _both_tuples(here: SharedSettings, there: SharedSettings) -> bool:
    """True if the names of plugins are all there is to the key ``plugins``, and differ."""
    sides = [side.values.get("plugins") for side in (here, there)]
    return _names(here) != _names(there) and all(isinstance(side, tuple) for side in sides)


def _word(name: str) -> str:
    return _cut(json.dumps(name)[1:-1])


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _show(value: Setting) -> str:
    """As in TOML, as far as it has the value; cut where it is long."""
    match value:
        case None:
            return "not set"
        case bool():
            return str(value).lower()
        case bytes():
            return _cut(f"the bytes {value.hex()}")
        case tuple():
            return _cut(f"[{', '.join(map(_show, value[:_SHOWN]))}]")
        case str():
            return _cut(json.dumps(value))
        case _:
            return repr(value)
