"""The Merkle tree of RFC 6962 (section 2.1) over exact lines: roots, inclusion and consistency proofs. Pure.

A proof is a list of hashes of 32 bytes in the order of RFC 6962: from the leaf's neighbour up to the root's child.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256().digest()


def leaf_hash(line: bytes) -> bytes:
    """The hash of one leaf; a leaf can never be taken for a node, which begins with another byte."""
    return hashlib.sha256(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree of which only its edge is kept: one hash for each set bit of its size, the largest subtree first.

    That is O(log n), and enough to append leaves and to tell the root.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.size < 0 or len(self.hashes) != self.size.bit_count():
            raise ValueError(f"a tree of {self.size} leaves has no edge of {len(self.hashes)} hashes")
        if any(len(one) != HASH_BYTES for one in self.hashes):
            raise ValueError("a hash has 32 bytes")

    def grown(self, leaves: Sequence[bytes]) -> Frontier:
        """The tree with some more leaves, given by their hashes."""
        size, hashes = self.size, list(self.hashes)
        for leaf in leaves:
            number = size
            while number & 1:  # a subtree of the same size stands to the left: they become one
                leaf, number = node_hash(hashes.pop(), leaf), number >> 1
            hashes.append(leaf)
            size += 1
        return Frontier(size, tuple(hashes))

    @property
    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY_ROOT
        *others, found = self.hashes
        for left in reversed(others):
            found = node_hash(left, found)
        return found


class Tree:
    """A whole tree, to make proofs from: some 64 bytes a leaf."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add a leaf by its hash; every subtree that it completes is kept, too."""
        number, level = self.size, 0
        self._levels[0] += leaf
        while number & 1:
            level, number = level + 1, number >> 1
            leaf = node_hash(self._complete(level - 1, 2 * number), leaf)
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += leaf

    def _complete(self, level: int, number: int) -> bytes:
        begin = number * HASH_BYTES
        return bytes(self._levels[level][begin : begin + HASH_BYTES])

    def root(self, size: int | None = None) -> bytes:
        """The root of the tree, or of its first `size` leaves."""
        size = self.size if size is None else size
        self._check(0, size)
        return self._range(0, size) if size else EMPTY_ROOT

    def inclusion(self, index: int, size: int | None = None) -> list[bytes]:
        """PATH(index, D[size]): what leads from a leaf (counted from 0) to the root of the first `size` leaves."""
        size = self.size if size is None else size
        if index < 0:
            raise ValueError("leaves are counted from 0")
        self._check(index + 1, size)
        path, begin, end = [], 0, size
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if index < middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin = middle
        return path[::-1]

    def consistency(self, first: int, second: int | None = None) -> list[bytes]:
        """PROOF(first, D[second]): that the tree of `second` leaves continues that of `first`."""
        second = self.size if second is None else second
        if first < 1:
            raise ValueError("every tree continues the empty one: there is nothing to prove")
        self._check(first, second)
        path, begin, end, whole = [], 0, second, True
        while first != end:
            middle = begin + _split(end - begin)
            if first <= middle:
                path.append(self._range(middle, end))
                end = middle
            else:
                path.append(self._range(begin, middle))
                begin, whole = middle, False
        if not whole:
            path.append(self._range(begin, end))
        return path[::-1]

    def _check(self, least: int, size: int) -> None:
        if not 0 <= least <= size <= self.size:
            raise ValueError(f"the tree has {self.size} leaves: {least} of {size} are none of them")

    def _range(self, begin: int, end: int) -> bytes:
        """MTH(D[begin:end]); `begin` is a multiple of the range's largest complete subtree."""
        parts = list(self._subtrees(begin, end))
        found = parts.pop()
        while parts:
            found = node_hash(parts.pop(), found)
        return found

    def _subtrees(self, begin: int, end: int) -> Iterator[bytes]:
        while begin < end:
            level = (end - begin).bit_length() - 1
            yield self._complete(level, begin >> level)
            begin += 1 << level


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def includes(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Whether a path leads from a leaf's hash to a root (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size or any(len(one) != HASH_BYTES for one in path):
        return False
    number, last, found = index, size - 1, leaf
    for step in path:
        if last == 0:
            return False
        if number & 1 or number == last:
            found = node_hash(step, found)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            found = node_hash(found, step)
        number, last = number >> 1, last >> 1
    return last == 0 and found == root


def continues(first: int, first_root: bytes, second: int, second_root: bytes, path: Sequence[bytes]) -> bool:
    """Whether a tree continues a smaller one (RFC 9162, section 2.1.4.2)."""
    if not 0 < first <= second or any(len(one) != HASH_BYTES for one in path):
        return False
    if first == second:
        return not path and first_root == second_root
    steps = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not steps:
        return False
    number, last = first - 1, second - 1
    while number & 1:
        number, last = number >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if number & 1 or number == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not number & 1 and number:
                number, last = number >> 1, last >> 1
        else:
            new = node_hash(new, step)
        number, last = number >> 1, last >> 1
    return last == 0 and old == first_root and new == second_root
