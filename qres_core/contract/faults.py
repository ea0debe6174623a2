"""Reasons to blame or praise a node, as values: countable, and never compared as sentences.

A fact is a :class:`Fault` of the kernel, a :class:`Merit`, or the id of a plugin: its name, a colon
and an id of its own, as in ``"zk:bad-proof"``. The kernel puts the name before what a plugin says,
so no plugin can speak in the name of another or of the kernel.
"""

from __future__ import annotations

import enum
import re
from typing import Final, Self

from qres_core.contract.errors import ValueRefusedError

_OWN_ID: Final = re.compile(r"(?=.{1,64}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")
_PLUGIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
KERNEL: Final = "kernel"
"""Stands where a plugin's name would, for what the kernel found. No plugin may have the name."""


class _Nature(enum.Flag):
    PLAIN = 0
    OWN_VIEW = enum.auto()
    TRANSFERABLE = enum.auto()


_PLAIN, _OWN_VIEW, _TRANSFERABLE = _Nature.PLAIN, _Nature.OWN_VIEW, _Nature.TRANSFERABLE


class Fault(enum.StrEnum):
    """Fault of a message, and so of its author or of the node that passed it on.

    The value is stable: it is counted, logged, and held against nodes. The text is for people, may
    change at any time, and decides nothing.

    Attributes:
        text: one line for people.
        own_view: another honest node may see it otherwise. Nobody is blamed for it.
        transferable: the signed messages alone prove it to everybody who knows the swarm's roster
            and settings.
    """

    text: str
    own_view: bool
    transferable: bool

    def __new__(cls, value: str, nature: _Nature, text: str) -> Self:
        """A member, with what it is beside its value."""
        made = str.__new__(cls, value)
        made._value_ = value
        made.text = text
        made.own_view = _Nature.OWN_VIEW in nature
        made.transferable = _Nature.TRANSFERABLE in nature
        return made

    @classmethod
    def named(cls, text: str) -> str:
        """The fault of that value, or the id of a plugin as it is; for what people write down.

        Raises:
            ValueRefusedError: QRES-E513 for a text that is neither.
        """
        return next((fault for fault in cls if fault.value == text), None) or checked(text)

    # What is wrong with a frame. Nothing proves yet that its sender made it.
    FRAME_TOO_LARGE = "frame-too-large", _PLAIN, "A frame is over the size limit."
    FRAME_MALFORMED = "frame-malformed", _PLAIN, "A frame is not CBOR, or has another shape."
    FRAME_NOT_CANONICAL = (
        "frame-not-canonical",
        _PLAIN,
        "A frame decodes, and encodes again differently.",
    )
    FRAME_FIELD_INVALID = (
        "frame-field-invalid",
        _PLAIN,
        "A field of a frame has the wrong type, length or range.",
    )
    FRAME_DIGEST_MISMATCH = (
        "frame-digest-mismatch",
        _PLAIN,
        "A frame carries a payload that is not the one it names.",
    )
    FRAME_VERSION_UNKNOWN = (
        "frame-version-unknown",
        _PLAIN,
        "A frame has a version that this node does not speak.",
    )
    OTHER_SWARM = "other-swarm", _PLAIN, "A message belongs to another swarm."
    UNKNOWN_SENDER = (
        "unknown-sender",
        _OWN_VIEW,
        "The sender of a message is no member at this node's height.",
    )
    UNKNOWN_AUTHENTICATOR = (
        "unknown-authenticator",
        _PLAIN,
        "A message carries an authenticator that no plugin here makes.",
    )
    SEQUENCE_OF_OTHER_KEY = (
        "sequence-of-other-key",
        _PLAIN,
        "A message has a sequence number that belongs to another key of its sender.",
    )
    BANNED = "banned", _OWN_VIEW, "This node has banned the sender or the source of the message."
    REPLAYED = "replayed", _PLAIN, "The message was delivered before."

    # What is wrong with a message whose sender is proven.
    EQUIVOCATION = (
        "equivocation",
        _TRANSFERABLE,
        "A node signed two messages, and it may send only one of them.",
    )
    MALFORMED_PAYLOAD = (
        "malformed-payload",
        _TRANSFERABLE,
        "A signed message has content that cannot be decoded.",
    )
    UNKNOWN_KIND = "unknown-kind", _PLAIN, "A message has a kind that this node does not know."
    UNKNOWN_DIALOGUE = (
        "unknown-dialogue",
        _OWN_VIEW,
        "A message belongs to a dialogue that this node does not hold.",
    )
    ADDRESSED_TO_ANOTHER = (
        "addressed-to-another",
        _OWN_VIEW,
        "A message of a dialogue is addressed to another node.",
    )
    UNPROVEN_DIALOGUE_MESSAGE = (
        "unproven-dialogue-message",
        _PLAIN,
        "The sender of a quoted message of a dialogue did not make it for this node.",
    )
    TOO_MANY_DIALOGUE_MESSAGES = (
        "too-many-dialogue-messages",
        _PLAIN,
        "A node sent more messages of dialogues in a round than a node may.",
    )
    NOT_THE_PROPOSER = (
        "not-the-proposer",
        _TRANSFERABLE,
        "A node proposed a set in a round of another proposer.",
    )
    SET_BELOW_QUORUM = (
        "set-below-quorum",
        _TRANSFERABLE,
        "A proposed set has fewer members than the quorum.",
    )
    SET_NAMES_STRANGER = (
        "set-names-stranger",
        _TRANSFERABLE,
        "A proposed set has a member that is outside the roster, or banned by the swarm.",
    )
    SET_OF_OTHER_ROUND = (
        "set-of-other-round",
        _TRANSFERABLE,
        "A proposed set is of another round, and no quorum asked for it again.",
    )
    SET_NAMES_BANNED = (
        "set-names-banned",
        _OWN_VIEW,
        "A proposed set has a member that this node has banned.",
    )
    STANDING_BENT = (
        "standing-bent",
        _PLAIN,
        "A proposed set gives a member a weight that differs from this node's.",
    )
    UNPROVEN_LOCK = "unproven-lock", _PLAIN, "The votes for an earlier set do not prove its lock."
    UNPROVEN_CERTIFICATE = (
        "unproven-certificate",
        _PLAIN,
        "The quoted votes do not prove that the set was decided.",
    )
    UNPROVEN_CHANGE = (
        "unproven-change",
        _OWN_VIEW,
        "The evidence or the change of members that a set carries does not hold.",
    )
    UNPROVEN_LINK = (
        "unproven-link",
        _PLAIN,
        "The quoted votes do not prove how the swarm went on.",
    )
    UNPROVEN_STOP = (
        "unproven-stop",
        _PLAIN,
        "The quoted messages do not prove that the goal was reached.",
    )
    UNPROVEN_CONTRIBUTION = (
        "unproven-contribution",
        _PLAIN,
        "The sender of the quoted contribution did not make it for this model.",
    )
    WRONG_SHARD = (
        "wrong-shard",
        _PLAIN,
        "A node gave another result of a shard than f + 1 of its committee.",
    )
    OTHER_SETTINGS = (
        "other-settings",
        _OWN_VIEW,
        "A node shares no history with this one: its settings or members differ.",
    )
    NO_ROOM = (
        "no-room",
        _OWN_VIEW,
        "This node's disk does not take a contribution, and its budget of memory is used up.",
    )
    OTHER_GOAL = "other-goal", _OWN_VIEW, "A message is about a goal that is not this node's."


class Merit(enum.StrEnum):
    """Reason to praise a node."""

    CONTRIBUTED = "contributed"
    """A contribution of it was agreed on and merged."""


def own_id(value: object) -> str:
    """The id that a plugin gives to what it found, without the plugin's name.

    Args:
        value: lower-case words of a-z and 0-9 with hyphens between them, 1..64 characters.

    Raises:
        ValueRefusedError: QRES-E513.
    """
    if isinstance(value, str) and not isinstance(value, Fault | Merit):
        plain = "".join(value)  # of an enum of the plugin's own, too
        if is_own_id(plain):
            return plain
    what = f"{value!r} is no id of a fault"
    fix = 'lower-case words with hyphens between them, at most 64 characters: "bad-proof"'
    raise ValueRefusedError.of("QRES-E513", "fault", what, fix)


def of_plugin(plugin: str, own: str) -> str:
    """The id of what a plugin found, ``<plugin>:<id>``.

    Raises:
        ValueRefusedError: QRES-E513.
    """
    return checked(f"{plugin}:{own}")


def checked(value: object) -> str:
    """A fact, as it was given.

    Args:
        value: a :class:`Fault`, a :class:`Merit`, or an id ``<plugin>:<id>``.

    Raises:
        ValueRefusedError: QRES-E513 for anything else, the bare text of a fault among it.
    """
    if isinstance(value, Fault | Merit):
        return value
    if type(value) is str:
        plugin, colon, own = value.partition(":")
        if colon and plugin != KERNEL and _PLUGIN.fullmatch(plugin) and _OWN_ID.fullmatch(own):
            return value
    what = f"{value!r} is neither a Fault nor the id of a plugin"
    raise ValueRefusedError.of("QRES-E513", "fact", what, 'a Fault, or "<plugin>:<id>"')


def is_own_id(value: str) -> bool:
    """True if a plugin may give this id to what it found."""
    return _OWN_ID.fullmatch(value) is not None


def is_plugin_name(name: str) -> bool:
    """True if facts can be named after a plugin of that name."""
    return name != KERNEL and _PLUGIN.fullmatch(name) is not None


def describe(fact: str) -> str:
    """One line for people about what is counted under an id. Nothing may depend on it."""
    if isinstance(fact, Fault):
        return fact.text
    plugin, colon, own = fact.partition(":")
    return f"{plugin}: {own.replace('-', ' ')}" if colon else fact


HOOK_RAISED: Final = "-raised"
"""How the reason of a refusal ends where the hook that was asked raised: it says nothing of what it
was asked about."""


def raised(what: str, error: BaseException) -> str:
    """The id, without a plugin's name, of a hook or a dialogue of a plugin that raised.

    Args:
        what: name of the hook, or ``"dialogue"``.
        error: what it raised; the name of its class is told apart.
    """
    kind = re.sub(r"[^a-z0-9]+", "-", type(error).__name__.lower()).strip("-")
    return f"{what.replace('_', '-')}{HOOK_RAISED}-{kind}"[:64].rstrip("-")
