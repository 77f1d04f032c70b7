"""CRC-32C: published vectors, and hardware, table and oracle paths equal for any input."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.crc32c import crc32c, crc32c_join, crc32c_table, hardware
from tests.oracle.crc32c import crc32c as oracle

PATHS = [crc32c, crc32c_table, oracle]
READ_COMMAND = bytes.fromhex(
    "01c00000 00000000 00000000 00000000 14000000 00000400 00000014 00000018"
    "28000000 00000000 02000000 00000000"
)
# RFC 3720 appendix B.4, and the check value of the Castagnoli polynomial.
VECTORS = [
    (b"", 0),
    (b"123456789", 0xE3069283),
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (bytes(reversed(range(32))), 0x113FDB5C),
    (READ_COMMAND, 0xD9963A56),
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("data", "expected"), VECTORS)
def test_published_vectors(path, data: bytes, expected: int) -> None:
    assert path(data) == expected


def test_every_length_around_the_stream_boundaries() -> None:
    """One to eight byte tails, and both sizes of three-stream blocks (3 x 256 and 3 x 2048)."""
    data = np.random.default_rng(1).bytes(13_000)
    lengths = [*range(20), *range(760, 780), *range(6130, 6160), *range(12_280, 12_300), 13_000]
    for length in lengths:
        expected = oracle(data[:length])
        assert crc32c(data[:length]) == expected, length
        assert crc32c_table(data[:length]) == expected, length


@given(st.binary(max_size=2000), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_paths_agree(data: bytes, value: int) -> None:
    assert crc32c(data, value) == crc32c_table(data, value) == oracle(data, value)


@given(st.binary(max_size=10_000), st.integers(0, 10_000))
@settings(deadline=None)
def test_goes_on_from_a_value(data: bytes, split: int) -> None:
    assert crc32c(data[split:], crc32c(data[:split])) == crc32c(data)


@given(st.binary(max_size=3000), st.binary(max_size=3000))
@settings(deadline=None)
def test_join_of_two_parts(a: bytes, b: bytes) -> None:
    assert crc32c_join(crc32c(a), crc32c(b), len(b)) == oracle(a + b)


@pytest.mark.parametrize("bits", range(25))
def test_join_over_each_power_of_two(bits: int) -> None:
    """Zeros stand for any bytes: the join is linear."""
    for nbytes in (1 << bits, (1 << bits) + 1):
        zeros = bytes(nbytes)
        assert crc32c_join(0xE3069283, crc32c(zeros), nbytes) == crc32c(zeros, 0xE3069283)


def test_misaligned_input_gives_the_same() -> None:
    data = bytearray(np.random.default_rng(2).bytes(20_000))
    for start in range(9):
        view = memoryview(data)[start:]
        assert crc32c(view) == crc32c_table(bytes(view))


def test_takes_any_contiguous_buffer_and_no_other() -> None:
    array = np.arange(1000, dtype=np.uint32)
    assert crc32c(array) == crc32c(array.tobytes())
    with pytest.raises((BufferError, ValueError)):
        crc32c(array[::2])
    with pytest.raises(TypeError):
        crc32c("text")
    with pytest.raises(OverflowError):
        crc32c(b"", 1 << 32)


def test_hardware_is_what_the_processor_says() -> None:
    if os.environ.get("RINGVAULT_PORTABLE") == "1":
        assert not hardware()
        return
    with open("/proc/cpuinfo", encoding="ascii") as info:
        flags = set(next(line for line in info if line.startswith("flags")).split())
    assert hardware() is ({"sse4_2", "pclmulqdq"} <= flags)
