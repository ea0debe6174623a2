"""Dialogues among nodes, and what a plugin that hides updates opens after the vote."""

from qres_core.contract.dialogue import (
    Dialogue,
    DialogueMessage,
    HostedDialogue,
    HostedMemory,
    Send,
)
from qres_core.contract.evidence import Revelation, RevelationError
from qres_core.contract.rounds import MAX_VOID_SETS, VoidSet

__all__ = [
    "MAX_VOID_SETS",
    "Dialogue",
    "DialogueMessage",
    "HostedDialogue",
    "HostedMemory",
    "Revelation",
    "RevelationError",
    "Send",
    "VoidSet",
]
