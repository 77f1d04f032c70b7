"""crc32c and sha256, against hashlib and against their portable paths."""

from __future__ import annotations

import hashlib
from random import Random

import pytest

from bench.micro.conftest import Measure
from cext.crc32c import crc32c, crc32c_table
from cext.sha256 import merkle_root, sha256, sha256_many, sha256_pair, sha256_portable

DATA = Random(2).randbytes(400_000)
OTHER = Random(3).randbytes(400_000)
DIGEST = hashlib.sha256(DATA).digest()


@pytest.mark.benchmark(group="crc32c")
@pytest.mark.parametrize("path", [crc32c, crc32c_table])
def test_crc32c(measure: Measure, path) -> None:
    assert measure(len(DATA), lambda: path(DATA)) == crc32c_table(DATA)


@pytest.mark.benchmark(group="sha256")
@pytest.mark.parametrize("path", [sha256, sha256_portable])
def test_sha256_one(measure: Measure, path) -> None:
    assert measure(len(DATA), lambda: path(DATA)) == DIGEST


@pytest.mark.benchmark(group="sha256")
def test_sha256_pair(measure: Measure) -> None:
    first, second = measure(2 * len(DATA), lambda: sha256_pair(DATA, OTHER))
    assert (first, second) == (DIGEST, hashlib.sha256(OTHER).digest())


@pytest.mark.benchmark(group="sha256")
def test_sha256_hashlib(measure: Measure) -> None:
    """The peer."""
    assert measure(len(DATA), lambda: hashlib.sha256(DATA).digest()) == DIGEST


@pytest.mark.benchmark(group="sha256")
def test_sha256_many(measure: Measure, samples: list[bytes]) -> None:
    """One key frame and 24 others: unequal lengths, two lanes."""
    expected = [hashlib.sha256(sample).digest() for sample in samples]
    assert measure(sum(map(len, samples)), lambda: sha256_many(samples)) == expected


@pytest.mark.benchmark(group="merkle")
def test_merkle_root(measure: Measure) -> None:
    leaves = [i.to_bytes(48) for i in range(1000)]
    root = measure(48 * 1000, lambda: merkle_root(leaves))
    level = [hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves]
    while len(level) > 1:
        pairs = [b"".join(level[i : i + 2]) for i in range(0, len(level), 2)]
        level = [hashlib.sha256(b"\1" + p).digest() if len(p) == 64 else p for p in pairs]
    assert [root] == level
