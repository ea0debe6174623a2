"""The rules of the conformance suites, by stable id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NoReturn

RULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "QRES-AGG-1": "is a plugin the kernel takes",
        "QRES-AGG-2": "returns int32 of shape (d,)",
        "QRES-AGG-3": "leaves its input alone",
        "QRES-AGG-4": "does not care which sender holds which vector",
        "QRES-AGG-5": "merges as few updates as it claims to need",
        "QRES-AGG-6": "gives the same bits for the same updates",
        "QRES-AGG-7": "is exact where all agree",
        "QRES-AGG-8": "stays within its inputs and does not wrap",
        "QRES-AGG-9": "reads weights as proportions",
        "QRES-AGG-10": "is not moved by one great weight",
        "QRES-AGG-11": "withstands the liars it says it tolerates",
        "QRES-AGG-12": "is (f, kappa)-robust",
        "QRES-AGG-13": "breaks at no distance and by no known attack",
        "QRES-AGG-14": "does not care how its input lies in memory",
        "QRES-AGG-15": "survives the bit patterns of NaN and infinity",
        "QRES-AGG-16": "loses no digits to what all updates share",
        "QRES-AGG-17": "is not blinded by liars who share a huge offset",
        "QRES-AGG-18": "lets no weight own the result",
        "QRES-AGG-19": "survives copies of an honest update",
        "QRES-AGG-20": "does not wrap around",
        "QRES-AGG-21": "leaves its input alone under attack too",
        "QRES-AGG-22": "merges a range of coordinates alone as it says",
        "QRES-AUTH-1": "is a plugin the kernel takes",
        "QRES-AUTH-2": "accepts what it signed",
        "QRES-AUTH-3": "rejects a message without its authenticator",
        "QRES-AUTH-4": "rejects every flipped bit of the authenticator",
        "QRES-AUTH-5": "binds every field of the message",
        "QRES-AUTH-6": "never blames the claimed sender for a forgery",
        "QRES-AUTH-7": "accepts what it signed in a quote of any time, and no forged quote",
        "QRES-TRN-1": "is a transport the kernel takes",
        "QRES-TRN-2": "broadcasts to all others",
        "QRES-TRN-3": "sends to one node and proves who sent",
        "QRES-TRN-4": "refuses what is too large",
        "QRES-TRN-5": "answers requests",
        "QRES-TRN-6": "names why a request failed",
        "QRES-TRN-7": "carries blobs whole, also from those who fetched them",
        "QRES-TRN-8": "believes no holder of a blob",
        "QRES-TRN-9": "names why a blob did not come",
        "QRES-TRN-10": "knows who is connected",
        "QRES-TRN-11": "counts",
        "QRES-TRN-12": "connects nobody who is not admitted",
        "QRES-TRN-13": "closes and leaves nothing behind",
        "QRES-TRN-14": "keeps no more than its queues hold, and counts the rest",
        "QRES-TRN-15": "takes many calls at once",
    }
)
"""Every rule id with its title. Ids are never reused."""


class ContractViolationError(AssertionError):
    """A plugin breaks a rule of its contract.

    Attributes:
        rule: an id of :data:`RULES`.
        what: what was seen.
    """

    def __init__(self, rule: str, what: str) -> None:
        self.rule = rule
        self.what = what
        super().__init__(f"{rule} ({RULES[rule]}): {what}")


def broken(rule: str, what: str, cause: BaseException | None = None) -> NoReturn:
    """Fail the test for ``rule``, saying what was seen.

    Raises:
        ContractViolationError: always.
    """
    __tracebackhide__ = True
    raise ContractViolationError(rule, what) from cause
