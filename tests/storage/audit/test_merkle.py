"""RFC 6962 trees: published vectors, a recursive twin of the RFC's text, and forged proofs."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.sha256 import merkle_root
from storage.audit.merkle import (
    EMPTY_ROOT,
    Frontier,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    tree_root,
    verify_consistency,
    verify_inclusion,
)

# The eight leaves and the roots of certificate-transparency's merkletree tests (RFC 6962).
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
HASHES = [leaf_hash(leaf) for leaf in LEAVES]


def mth(leaves: list[bytes]) -> bytes:
    """Section 2.1, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return sha256(b"\1" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def path(m: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of section 2.1.1."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m < k:
        return [*path(m, leaves[:k]), mth(leaves[k:])]
    return [*path(m - k, leaves[k:]), mth(leaves[:k])]


def subproof(m: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of section 2.1.2."""
    if m == len(leaves):
        return [] if whole else [mth(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], whole), mth(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), mth(leaves[:k])]


def test_published_roots() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    frontier = Frontier()
    assert frontier.root() == EMPTY_ROOT
    for size, root in enumerate(ROOTS, 1):
        frontier.append(HASHES[size - 1])
        assert frontier.root().hex() == root
        assert tree_root(HASHES[:size]).hex() == root
        assert merkle_root(LEAVES[:size]).hex() == root


def test_published_paths() -> None:
    """The example of section 2.1.3: seven leaves, paths of d0, d3, d4, d6; proofs from 3, 4, 6."""
    seven = HASHES[:7]
    a, b, c, d, e, f, j = seven
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, left = node_hash(i, j), node_hash(g, h)
    assert inclusion_proof(seven, 0) == [b, h, k]
    assert inclusion_proof(seven, 3) == [c, g, k]
    assert inclusion_proof(seven, 4) == [f, j, left]
    assert inclusion_proof(seven, 6) == [i, left]
    assert consistency_proof(seven, 3) == [c, d, g, k]
    assert consistency_proof(seven, 4) == [k]
    assert consistency_proof(seven, 6) == [i, j, left]


@settings(max_examples=60, deadline=None)
@given(leaves=st.lists(st.binary(max_size=8), min_size=1, max_size=40), data=st.data())
def test_proofs_equal_the_rfcs_text_and_only_the_right_ones_verify(
    leaves: list[bytes], data: st.DataObject
) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    root = mth(leaves)
    assert tree_root(hashes) == root
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof = inclusion_proof(hashes, index)
    assert proof == path(index, leaves)
    assert verify_inclusion(hashes[index], index, len(leaves), proof, root)
    wrong = leaf_hash(b"another leaf")
    assert not verify_inclusion(wrong, index, len(leaves), proof, root)
    assert not verify_inclusion(hashes[index], index, len(leaves), [*proof, wrong], root)
    assert not verify_inclusion(hashes[index], len(leaves), len(leaves), proof, root)
    if proof:
        assert not verify_inclusion(hashes[index], index, len(leaves), proof[:-1], root)
        assert not verify_inclusion(hashes[index], index, len(leaves), [wrong, *proof[1:]], root)
    old = data.draw(st.integers(1, len(leaves)))
    proof = consistency_proof(hashes, old)
    assert proof == subproof(old, leaves, True)
    old_root = mth(leaves[:old])
    assert verify_consistency(old, len(leaves), proof, old_root, root)
    assert not verify_consistency(old, len(leaves), proof, wrong, root)
    assert not verify_consistency(old, len(leaves), proof, old_root, wrong)
    assert not verify_consistency(old, len(leaves), [*proof, wrong], old_root, root)
    assert not verify_consistency(len(leaves) + 1, len(leaves), proof, old_root, root)


def test_proofs_outside_the_tree_are_refused() -> None:
    with pytest.raises(IndexError):
        inclusion_proof(HASHES, 8)
    with pytest.raises(IndexError):
        consistency_proof(HASHES, 0)
    with pytest.raises(IndexError):
        consistency_proof(HASHES, 9)


def test_a_frontier_copy_goes_its_own_way() -> None:
    frontier = Frontier()
    for item in HASHES[:3]:
        frontier.append(item)
    twin = frontier.copy()
    twin.append(HASHES[3])
    assert frontier.root().hex() == ROOTS[2]
    assert twin.root().hex() == ROOTS[3]
