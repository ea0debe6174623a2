"""Merkle trees: the hash tree of RFC 6962, section 2.1, as it stands there.

A root of 32 bytes fixes a list of octet strings, and a path of ``⌈log2 n⌉`` digests proves each of
them. The first byte of what is hashed is 0 for a leaf and 1 for a node, so that no node can be
passed off as a leaf.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

_LEAF: Final = b"\x00"
_NODE: Final = b"\x01"


def leaf_hash(octets: bytes | memoryview) -> bytes:
    """The digest of a leaf: 32 bytes."""
    digest = hashlib.sha256(_LEAF)
    digest.update(octets)
    return digest.digest()


def merkle_root(leaves: Sequence[bytes]) -> bytes:
    """The root over the digests of one leaf or more, in their order: 32 bytes.

    Complexity: O(n) hashes.
    """
    if len(leaves) == 1:
        return leaves[0]
    cut = _split(len(leaves))
    return _node(merkle_root(leaves[:cut]), merkle_root(leaves[cut:]))


def merkle_path(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Proof of the leaf at ``index``: the digests beside its way to the root, from below.

    Complexity: O(n) hashes.
    """
    if len(leaves) == 1:
        return ()
    cut = _split(len(leaves))
    if index < cut:
        return (*merkle_path(leaves[:cut], index), merkle_root(leaves[cut:]))
    return (*merkle_path(leaves[cut:], index - cut), merkle_root(leaves[:cut]))


def proves_leaf(root: bytes, leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bool:
    """True if a path proves that a leaf is the one at ``index`` of ``size``.

    Complexity: O(log n) hashes.
    """
    sides = _sides(index, size)
    if len(path) != len(sides):
        return False
    digest = leaf
    for beside, is_right in zip(path, sides, strict=True):
        digest = _node(beside, digest) if is_right else _node(digest, beside)
    return digest == root


def _sides(index: int, size: int) -> list[bool]:
    """Sides of the way to a leaf, from below: true to the right."""
    sides: list[bool] = []
    while size > 1:
        cut = _split(size)
        is_right = index >= cut
        sides.append(is_right)
        index, size = (index - cut, size - cut) if is_right else (index, cut)
    return sides[::-1]


def _split(size: int) -> int:
    """The greatest power of two below ``size``."""
    return 1 << ((size - 1).bit_length() - 1)


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(_NODE + left + right).digest()
