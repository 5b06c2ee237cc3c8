"""The Merkle tree against the vectors that Certificate Transparency published, and against itself."""

from __future__ import annotations

import hashlib

import pytest

from audit.merkle import EMPTY_ROOT, Frontier, Tree, continues, includes, leaf_hash

LEAVES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
N5F, NBC = (
    "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
    "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
)
N96, N6B = (
    "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
    "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
)
NCA, N0E = (
    "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
    "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
)


def tree_of(count: int) -> Tree:
    tree = Tree()
    for number in range(count):
        tree.append(leaf_hash(b"leaf %d" % number))
    return tree


def published(count: int = 8) -> Tree:
    tree = Tree()
    for leaf in LEAVES[:count]:
        tree.append(leaf_hash(leaf))
    return tree


@pytest.mark.parametrize("size", range(9))
def test_roots_are_the_published_ones(size: int) -> None:
    hashes = [leaf_hash(leaf) for leaf in LEAVES]
    assert Frontier().grown(hashes[:size]).root.hex() == ROOTS[size]
    assert published(size).root().hex() == ROOTS[size]
    assert published().root(size).hex() == ROOTS[size]


@pytest.mark.parametrize(
    ("index", "size", "path"),
    [
        (0, 1, []),
        (0, 2, [N96]),
        (1, 2, [ROOTS[1]]),
        (2, 3, [ROOTS[2]]),
        (1, 5, [ROOTS[1], N5F, NBC]),
        (0, 8, [N96, N5F, N6B]),
        (5, 8, [NBC, NCA, ROOTS[4]]),
    ],
)
def test_inclusion_proofs_are_the_published_ones(index: int, size: int, path: list[str]) -> None:
    assert [step.hex() for step in published().inclusion(index, size)] == path
    root = bytes.fromhex(ROOTS[size])
    assert includes(leaf_hash(LEAVES[index]), index, size, [bytes.fromhex(step) for step in path], root)


@pytest.mark.parametrize(
    ("first", "second", "path"),
    [(1, 1, []), (1, 8, [N96, N5F, N6B]), (2, 5, [N5F, NBC]), (6, 8, [N0E, NCA, ROOTS[4]])],
)
def test_consistency_proofs_are_the_published_ones(first: int, second: int, path: list[str]) -> None:
    assert [step.hex() for step in published().consistency(first, second)] == path
    roots = bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[second])
    assert continues(first, roots[0], second, roots[1], [bytes.fromhex(step) for step in path])


def test_every_proof_of_every_small_tree_holds() -> None:
    tree = tree_of(40)
    for size in range(1, 41):
        root = tree.root(size)
        for index in range(size):
            assert includes(leaf_hash(b"leaf %d" % index), index, size, tree.inclusion(index, size), root)
        for first in range(1, size + 1):
            assert continues(first, tree.root(first), size, root, tree.consistency(first, size))


def test_a_proof_holds_for_nothing_else() -> None:
    tree = tree_of(21)
    for size in (1, 2, 3, 7, 8, 13, 21):
        root = tree.root(size)
        for index in range(size):
            leaf, path = leaf_hash(b"leaf %d" % index), tree.inclusion(index, size)
            other = (index + 1) % size
            assert size == 1 or not includes(leaf, other, size, path, root)
            assert not includes(leaf, index, size, [*path, root], root)
            assert not includes(leaf, index, size, path[:-1], root) or not path
            assert not includes(leaf_hash(b"other"), index, size, path, root)
            assert not includes(leaf, index, size, [_flipped(path[0]), *path[1:]] if path else [leaf], root)


def test_a_rewritten_tree_continues_nothing() -> None:
    tree, other = tree_of(20), Tree()
    for number in range(20):
        other.append(leaf_hash(b"leaf %d" % number if number != 3 else b"another"))
    for first in range(4, 20):
        for second in range(first, 21):
            path = other.consistency(first, second)
            assert not continues(first, tree.root(first), second, other.root(second), path)
    assert not continues(8, tree.root(8), 5, tree.root(5), [])  # it shrank
    assert not continues(0, EMPTY_ROOT, 5, tree.root(5), [])


def test_an_edge_goes_on_where_it_was_put_down() -> None:
    hashes = [leaf_hash(b"leaf %d" % number) for number in range(100)]
    for cut in (0, 1, 31, 64, 99):
        kept = Frontier().grown(hashes[:cut])
        assert Frontier(kept.size, kept.hashes).grown(hashes[cut:]).root == tree_of(100).root()
        assert len(kept.hashes) == cut.bit_count()
    with pytest.raises(ValueError, match="no edge of 0 hashes"):
        Frontier(3, ())


def test_what_the_tree_has_not_got_cannot_be_proven() -> None:
    for asked in (lambda: tree_of(3).inclusion(3), lambda: tree_of(3).consistency(4), lambda: tree_of(3).root(4)):
        with pytest.raises(ValueError, match="3 leaves"):
            asked()
    with pytest.raises(ValueError, match="from 0"):
        tree_of(3).inclusion(-1)
    with pytest.raises(ValueError, match="nothing to prove"):
        tree_of(3).consistency(0)


def _flipped(hash: bytes) -> bytes:
    return hashlib.sha256(hash).digest()
