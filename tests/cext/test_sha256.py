"""SHA-256 in one lane, two lanes and portable: equal to hashlib for any input; RFC 6962 roots."""

import hashlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.sha256 import (
    implementation,
    merkle_root,
    sha256,
    sha256_many,
    sha256_pair,
    sha256_portable,
)
from tests.oracle import merkle
from tests.oracle.sha256 import sha256 as oracle


def library(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("path", [sha256, sha256_portable, oracle])
@pytest.mark.parametrize(
    ("data", "expected"),
    [  # FIPS 180-4 examples
        (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
    ],
)
def test_published_vectors(path, data: bytes, expected: str) -> None:
    assert path(data).hex() == expected


def test_a_million_letters() -> None:
    expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"
    data = b"a" * 1_000_000
    assert sha256(data).hex() == sha256_portable(data).hex() == expected
    assert [digest.hex() for digest in sha256_pair(data, data)] == [expected] * 2


@pytest.mark.parametrize("length", range(301))
def test_every_length_to_300(length: int) -> None:
    data = np.random.default_rng(length).bytes(length)
    other = np.random.default_rng(length + 1000).bytes(301 - length)
    assert sha256(data) == library(data)
    assert sha256_portable(data) == library(data)
    assert sha256_pair(data, other) == (library(data), library(other))


@given(st.lists(st.binary(max_size=1500), max_size=12))
@settings(deadline=None)
def test_many_messages_of_unequal_length(messages: list[bytes]) -> None:
    assert sha256_many(messages) == [library(message) for message in messages]


@given(st.lists(st.integers(0, 40_000), min_size=1, max_size=40), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_lanes_hand_over_from_long_to_short(lengths: list[int], seed: int) -> None:
    data = np.random.default_rng(seed).bytes(40_000)
    messages = [memoryview(data)[:length] for length in lengths]
    assert sha256_many(messages) == [library(message) for message in messages]


@given(st.binary(max_size=1000), st.binary(max_size=1000))
@settings(deadline=None)
def test_a_pair(a: bytes, b: bytes) -> None:
    assert sha256_pair(a, b) == (library(a), library(b))


def test_oracle_agrees_with_hashlib() -> None:
    for length in (0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 300):
        assert oracle(bytes(range(256))[:length] * 2) == library(bytes(range(256))[:length] * 2)


def test_misaligned_and_foreign_buffers() -> None:
    data = np.random.default_rng(5).bytes(5000)
    for start in range(17):
        view = memoryview(data)[start:]
        assert sha256(view) == library(view)
    array = np.arange(100, dtype=np.float64)
    assert sha256(array) == library(array.tobytes())
    with pytest.raises(TypeError):
        sha256_many([b"good", "text"])


# The eight leaves and roots of the reference tree of Certificate Transparency.
LEAVES = [
    bytes.fromhex(text)
    for text in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = {
    0: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    4: "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    5: "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    6: "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
}


@pytest.mark.parametrize("path", [merkle_root, merkle.merkle_root])
@pytest.mark.parametrize(("count", "expected"), ROOTS.items())
def test_reference_tree(path, count: int, expected: str) -> None:
    assert path(LEAVES[:count]).hex() == expected


def test_every_tree_size_to_300() -> None:
    leaves = [i.to_bytes(3) for i in range(300)]
    for count in range(301):
        assert merkle_root(leaves[:count]) == merkle.merkle_root(leaves[:count]), count


def test_implementation_is_what_the_processor_says() -> None:
    if os.environ.get("RINGVAULT_PORTABLE") == "1":
        assert implementation() == "portable"
        return
    with open("/proc/cpuinfo", encoding="ascii") as info:
        flags = set(next(line for line in info if line.startswith("flags")).split())
    expected = "sha-ni" if {"sha_ni", "sse4_1", "ssse3"} <= flags else "portable"
    assert implementation() == expected
