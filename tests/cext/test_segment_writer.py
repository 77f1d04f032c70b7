"""What is sealed and written is what the format page says, however the kernel takes it."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cext.arena import ArenaPool, Fragment
from cext.errors import CextError, WriteError
from cext.record import codec_config, parse_header, verify_record
from cext.segment_writer import (
    GAP_DETAIL_BYTES_MAX,
    AlignedBuffer,
    GapRecord,
    RecordPlace,
    datasync,
    read_aligned,
    seal,
    write_aligned,
    write_records,
)
from tests.cext.fragments import (
    CAMERA,
    MIB,
    START_NS,
    VOLUME,
    Spec,
    describe,
    fill,
    make,
    plain,
    specs,
)
from tests.oracle import record as oracle

ROOT = Path(__file__).resolve().parents[2]
BLOCK = 4096
Records = list[Fragment | GapRecord]


@pytest.fixture
def pool() -> ArenaPool:
    return ArenaPool(512 * MIB)


def gap(number: int = 1, detail: str = "refused") -> GapRecord:
    return GapRecord(CAMERA, number, START_NS, START_NS + number, 2, 0, detail)


def write(path: Path, records: Records, slot: int = 3, block: int = 1) -> list[RecordPlace]:
    with path.open("wb") as file:
        return write_records(file.fileno(), 0, block, 10, VOLUME, slot, 6, records)


# ---- seal ----


@given(st.lists(specs(frames_max=40, bytes_max=600), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_seal_gives_the_hashes_of_the_page(several: list[Spec]) -> None:
    """Frames of all fragments share two lanes; each hash lands in its own entry."""
    pool = ArenaPool(512 * MIB)
    fragments = [make(pool, spec) for spec in several]
    seal(fragments)
    with open(os.memfd_create("slots"), "r+b") as file:
        write_records(file.fileno(), 0, 0, 0, VOLUME, 0, 1, list(fragments))
        records = oracle.walk(file.read())
    for spec, fragment, record in zip(several, fragments, records, strict=True):
        assert [f.sha256 for f in record.frames] == [sha256(s).digest() for s in spec.samples]
        assert record.fields["fragment_root"] == fragment.fragment_root


def test_seal_in_several_groups(tmp_path: Path, pool: ArenaPool) -> None:
    """More frames than one group takes (1024), and more payload than it takes (4 MiB)."""
    fragments = [make(pool, plain(128, 300, seed)) for seed in range(20)]
    fragments += [make(pool, plain(5, 400_000, seed)) for seed in range(4)]
    seal(fragments)
    write(tmp_path / "slots", list(fragments), block=0)
    data = (tmp_path / "slots").read_bytes()
    at = 0
    for fragment in fragments:
        assert verify_record(data[at:], full=True).fragment_root == fragment.fragment_root
        at += fragment.record_bytes
    assert at == len(data)


def test_seal_needs_a_description_and_seals_all_or_none(pool: ArenaPool) -> None:
    good, bare, gone = make(pool, plain(3)), fill(pool, plain(3)), make(pool, plain(3))
    gone.release()
    for bad, message in ((bare, "describe"), (gone, "cannot be sealed")):
        with pytest.raises(ValueError, match=message):
            seal([good, bad])
        assert not good.sealed
    with pytest.raises(TypeError):
        seal([good, gap()])
    seal([])
    seal([good])
    root = good.fragment_root
    seal([good])
    assert good.fragment_root == root
    good.release()
    assert pool.bytes_in_use > 0  # only `bare`: a failed call holds nothing
    bare.release()
    assert pool.bytes_in_use == 0


def test_the_root_does_not_depend_on_the_company(pool: ArenaPool) -> None:
    spec = plain(9, 500, seed=3)
    alone, among = make(pool, spec), make(pool, spec)
    seal([alone])
    seal([make(pool, plain(30, 900)), among, make(pool, plain(1, 90_000))])
    assert alone.fragment_root == among.fragment_root


# ---- gap records ----


def test_gap_record(tmp_path: Path) -> None:
    record = GapRecord(CAMERA, 2**64 - 1, 5, 9, 7, 12, "queue full", flags=32)
    assert (record.camera_uid, record.stream_sequence) == (CAMERA, 2**64 - 1)
    assert (record.start_ns, record.end_ns, record.cause, record.packets) == (5, 9, 7, 12)
    assert (record.flags, record.detail, record.record_bytes) == (32, "queue full", BLOCK)
    (place,) = write(tmp_path / "slots", [record], block=0)
    stored = oracle.decode((tmp_path / "slots").read_bytes())
    assert stored.fields["fragment_root"] == record.fragment_root == place.fragment_root
    assert stored.config == b"queue full"


@given(st.text(max_size=5000))
@settings(max_examples=50, deadline=None)
def test_gap_detail_is_cut_at_a_character(detail: str) -> None:
    text = detail.encode("utf-8", "ignore").decode() * 2
    record = gap(detail=text)
    assert text.startswith(record.detail)
    stored = record.detail.encode()
    assert len(stored) <= GAP_DETAIL_BYTES_MAX
    assert record.detail == text or len(stored) > GAP_DETAIL_BYTES_MAX - 4


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((b"short", 1, 0, 1, 1, 0, ""), ValueError),
        ((CAMERA, 1, 2, 1, 1, 0, ""), ValueError),
        ((CAMERA, 1, 0, 1, 0, 0, ""), ValueError),
        ((CAMERA, 1, 0, 1, 256, 0, ""), ValueError),
        ((CAMERA, 1, 0, 1, 1, -1, ""), OverflowError),
        ((CAMERA, 1, 0, 1, 1, 0, None), (TypeError, AttributeError)),
    ],
)
def test_senseless_gaps_are_refused(arguments: tuple, error: type[Exception]) -> None:
    with pytest.raises(error):
        GapRecord(*arguments)


# ---- write_records ----


small = specs(frames_max=30, bytes_max=600)


@given(st.lists(st.one_of(small, st.integers(1, 50)), min_size=1, max_size=5))
@settings(max_examples=30, deadline=None)
def test_a_batch_lies_in_the_slot_as_returned(what: list[Spec | int]) -> None:
    pool = ArenaPool(512 * MIB)
    records: Records = [gap(w) if isinstance(w, int) else make(pool, w) for w in what]
    seal([r for r in records if isinstance(r, Fragment)])
    with open(os.memfd_create("slots"), "r+b") as file:
        places = write_records(file.fileno(), 2 * BLOCK, 3, 10, VOLUME, 5, 6, records)
        data = file.read()
    assert not any(data[: 5 * BLOCK])
    stored = oracle.walk(data[5 * BLOCK :])
    at = 3
    for i, (record, place, kept) in enumerate(zip(records, places, stored, strict=True)):
        assert (kept["slot"], kept["generation"], kept["slot_sequence"]) == (5, 6, 10 + i)
        assert kept.fields["volume_uuid"] == VOLUME
        assert place.offset_blocks == kept["offset_blocks"] == at
        assert place.record_bytes == kept["record_bytes"] == record.record_bytes
        assert place.header_crc32c == kept["header_crc32c"]
        assert place.payload_crc32c == kept["payload_crc32c"]
        assert place.fragment_root == kept.fields["fragment_root"] == record.fragment_root
        at += place.record_bytes // BLOCK


def open_direct(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        pytest.skip(f"no O_DIRECT on the file system of {path}")


def test_direct_io_takes_every_transfer(tmp_path: Path, pool: ArenaPool) -> None:
    """With O_DIRECT the kernel refuses any address, offset or length that is not aligned."""
    specs_ = [plain(n % 30 + 1, 1 + 777 * n, seed=n) for n in range(20)]
    records: Records = [make(pool, spec) for spec in specs_]
    seal(list(records))
    records[5:5] = [gap(1), gap(2)]
    fd = open_direct(tmp_path / "slots")
    try:
        places = write_records(fd, 4 * BLOCK, 1, 0, VOLUME, 3, 6, records)
        write_aligned(fd, 0, b"slot header")
        datasync(fd)
        buffer = AlignedBuffer(1 * MIB)
        for place in places:
            at = (4 + place.offset_blocks) * BLOCK
            assert read_aligned(fd, at, buffer, place.record_bytes) == place.record_bytes
            assert verify_record(buffer, full=True).header_crc32c == place.header_crc32c
        assert read_aligned(fd, 0, buffer, BLOCK) == BLOCK
        assert bytes(buffer)[:12] == b"slot header\0"
    finally:
        os.close(fd)


def test_more_records_than_one_vector_takes(tmp_path: Path) -> None:
    """IOV_MAX is 1024: the batch goes in several calls, and no record twice."""
    records: Records = [gap(number) for number in range(1, 2500)]
    places = write(tmp_path / "slots", records, block=0)
    data = (tmp_path / "slots").read_bytes()
    assert [p.offset_blocks for p in places] == list(range(2499))
    assert [parse_header(data[at:]).stream_sequence for at in range(0, len(data), BLOCK)] == list(
        range(1, 2500)
    )


def test_more_bytes_than_one_call_takes(tmp_path: Path, pool: ArenaPool) -> None:
    """Calls are cut at 64 MiB; here 5 x 15 MiB."""
    sample = np.random.default_rng(0).bytes(15 * MIB)
    rows = [((len(sample)).to_bytes(4) + sample, 0, START_NS, 1)]
    one = [Fragment.from_samples(pool, 1, 90_000, rows) for _ in range(5)]
    for fragment in one:
        describe(fragment, plain(1))
    seal(one)
    places = write(tmp_path / "slots", list(one), block=0)
    assert (tmp_path / "slots").stat().st_size == sum(p.record_bytes for p in places)
    with (tmp_path / "slots").open("rb") as file:
        for place in places:
            file.seek(place.offset_blocks * BLOCK)
            verify_record(file.read(place.record_bytes), full=True)


def test_a_batch_can_be_written_again_elsewhere(tmp_path: Path, pool: ArenaPool) -> None:
    """After a WriteError the recorder takes the same fragments to another volume."""
    records: Records = [make(pool, plain(4)), gap()]
    seal([records[0]])
    first = write(tmp_path / "a", records, slot=1, block=2)
    second = write(tmp_path / "b", records, slot=9, block=0)
    assert [p.fragment_root for p in first] == [p.fragment_root for p in second]
    assert [p.header_crc32c for p in first] != [p.header_crc32c for p in second]
    stored = oracle.walk((tmp_path / "b").read_bytes())
    assert [(r["slot"], r["offset_blocks"]) for r in stored] == [
        (9, p.offset_blocks) for p in second
    ]


def test_an_empty_batch_is_nothing(tmp_path: Path) -> None:
    assert write(tmp_path / "slots", []) == []
    assert (tmp_path / "slots").stat().st_size == 0


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"slot_offset_bytes": 100}, ValueError),
        ({"slot_offset_bytes": -BLOCK}, ValueError),
        ({"volume_uuid": b"short"}, ValueError),
        ({"first_block": 2**32 - 1}, ValueError),
        ({"first_block": -1}, OverflowError),
        ({"generation": 2**32}, OverflowError),
        ({"records": [b"bytes"]}, TypeError),
        ({"records": None}, TypeError),
    ],
)
def test_bad_arguments_write_nothing(tmp_path: Path, changed: dict, error: type) -> None:
    good = {
        "slot_offset_bytes": 0, "first_block": 0, "first_sequence": 0, "volume_uuid": VOLUME,
        "slot": 0, "generation": 1, "records": [gap()],
    }  # fmt: skip
    with (tmp_path / "slots").open("wb") as file:
        with pytest.raises(error):
            write_records(file.fileno(), **(good | changed))
        assert os.fstat(file.fileno()).st_size == 0
        assert len(write_records(file.fileno(), **good)) == 1


def test_unready_fragments_write_nothing(tmp_path: Path, pool: ArenaPool) -> None:
    described, sealed, released = (make(pool, plain(2)) for _ in range(3))
    seal([sealed, released])
    released.release()
    for bad in (described, released, Fragment()):
        with pytest.raises(ValueError, match="must be sealed and not released"):
            write(tmp_path / "slots", [sealed, bad])
        assert (tmp_path / "slots").stat().st_size == 0
    with pytest.raises(ValueError, match="once in a batch"):
        write(tmp_path / "slots", [sealed, sealed])
    sealed.release()
    described.release()
    assert pool.bytes_in_use == 0


# ---- the kernel refuses ----


def test_a_full_disk_is_a_write_error(pool: ArenaPool) -> None:
    fragment = make(pool, plain(3))
    seal([fragment])
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(WriteError) as caught:
        write_records(full.fileno(), 8 * BLOCK, 2, 0, VOLUME, 0, 1, [fragment])
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.offset_bytes == 10 * BLOCK
    assert isinstance(caught.value, OSError) and isinstance(caught.value, CextError)
    assert "No space left" in str(caught.value) and str(10 * BLOCK) in str(caught.value)
    fragment.release()
    assert pool.bytes_in_use == 0


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "slots").write_bytes(bytes(BLOCK))
    with (tmp_path / "slots").open("rb") as file:
        for attempt in (
            lambda: write_records(file.fileno(), 0, 0, 0, VOLUME, 0, 1, [gap()]),
            lambda: write_aligned(file.fileno(), 0, b"x"),
        ):
            with pytest.raises(WriteError) as caught:
                attempt()
            assert (caught.value.errno, caught.value.offset_bytes) == (errno.EBADF, 0)
    assert (tmp_path / "slots").read_bytes() == bytes(BLOCK)


def test_datasync_reports(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        datasync(file.fileno())
    reader, writer = os.pipe()
    with pytest.raises(WriteError) as caught:
        datasync(writer)
    assert (caught.value.errno, caught.value.offset_bytes) == (errno.EINVAL, -1)
    os.close(reader)
    os.close(writer)


class Corruptible(ctypes.Structure):
    """The head of a Fragment object: reference count, type, method table, rv_fragment."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("count", "type", "table", "fragment")]


@pytest.mark.parametrize(
    ("field", "byte", "rule"),
    [
        ("kind", 0, "kind"),
        ("payload_bytes", 1, "record_bytes"),
        ("stream_sequence", 0, "fragment_root"),
        ("end_ns", 7, "before its start"),
        ("end_ns", 0, "fragment_root"),
        ("moof_bytes", 0, "moof_bytes"),
        ("size_bytes", 0, "add up"),
        ("sha256", 5, "fragment_root"),
    ],
)
def test_a_record_that_went_bad_in_memory_is_never_written(
    tmp_path: Path, pool: ArenaPool, field: str, byte: int, rule: str
) -> None:
    """The pair assertion, by changing a sealed fragment behind its back."""
    good, bad = make(pool, plain(2)), make(pool, plain(2, seed=1))
    seal([good, bad])
    start = Corruptible.from_address(id(bad)).fragment
    assert start is not None
    memory = (ctypes.c_uint8 * 7000).from_address(start)
    place = bytes(memory).index(b"RVFRAG01")
    if field in oracle.FIELDS:
        place += oracle.offset_of(field)
    else:  # of the first frame: the table lies behind the header
        place += oracle.FIXED_BYTES + oracle.offset_of(field, oracle.ENTRY_FIELDS)
    memory[place + byte] ^= 0x80
    with pytest.raises(RuntimeError, match=f"record 1 of 2.*{rule}"):
        write(tmp_path / "slots", [good, bad])
    assert (tmp_path / "slots").stat().st_size == 0


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("shim") / "pwritev_shim.so"
    source = Path(__file__).with_name("pwritev_shim.c")
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True, timeout=60
    )
    return library


SCRIPT = """
import sys, threading
from cext.arena import ArenaPool
from cext.errors import WriteError
from cext.segment_writer import GapRecord, seal, write_aligned, write_records
from tests.cext.fragments import CAMERA, MIB, VOLUME, make, plain
pool = ArenaPool(64 * MIB)
fragments = [make(pool, plain(n + 2, 900 * n, seed=n)) for n in range(6)]
seal(fragments)
records = [*fragments, GapRecord(CAMERA, 1, 2, 3, 4, 5, "six")]
file = open(sys.argv[1], "wb")
def write():
    write_records(file.fileno(), 0, 1, 0, VOLUME, 3, 6, records)
    write_aligned(file.fileno(), 0, b"header" * 100)
"""


def run(shim: Path, path: Path, body: str, **settings_: int) -> str:
    preload = [part for part in (os.environ.get("LD_PRELOAD"), str(shim)) if part]
    environment = os.environ | {"LD_PRELOAD": " ".join(preload), "PYTHONPATH": str(ROOT)}
    environment |= {name: str(value) for name, value in settings_.items()}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT + body, path],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("nbytes", [4096, 5000, 8191, 12_288, 1 << 20])
@pytest.mark.parametrize("interrupted", [0, 1])
def test_short_and_interrupted_writes_are_resumed(
    shim: Path, tmp_path: Path, nbytes: int, interrupted: int
) -> None:
    """Whatever the kernel takes at a time, torn blocks included, the file is the same."""
    run(shim, tmp_path / "plain", "write()")
    run(shim, tmp_path / "short", "write()", SHIM_BYTES_MAX=nbytes, SHIM_EINTR=interrupted)
    assert (tmp_path / "short").read_bytes() == (tmp_path / "plain").read_bytes()
    assert len(oracle.walk((tmp_path / "plain").read_bytes()[BLOCK:])) == 7


@pytest.mark.parametrize("nbytes", [0, 1000])
def test_a_kernel_that_takes_nothing_is_an_error_not_a_loop(
    shim: Path, tmp_path: Path, nbytes: int
) -> None:
    body = """
try:
    write()
except WriteError as error:
    print(error.errno, error.offset_bytes)
"""
    printed = run(shim, tmp_path / "slots", body, SHIM_BYTES_MAX=nbytes)
    assert printed == f"{errno.EIO} {BLOCK}"


def test_release_during_a_write_waits_for_it(shim: Path, tmp_path: Path) -> None:
    """The event loop may drop fragments while the writer thread has them in the kernel."""
    body = """
import time
thread = threading.Thread(target=write)
thread.start()
time.sleep(0.2)
in_use = pool.bytes_in_use
for fragment in fragments:
    fragment.release()
print(pool.bytes_in_use == in_use > 0, thread.is_alive())
thread.join()
print(pool.bytes_in_use)
"""
    assert run(shim, tmp_path / "slots", body, SHIM_SLEEP_MS=600) == "True True\n0"
    assert len(oracle.walk((tmp_path / "slots").read_bytes()[BLOCK:])) == 7


def test_a_processor_without_the_instructions_writes_the_same(shim: Path, tmp_path: Path) -> None:
    """Portable SHA-256 and CRC, without lanes and without joining: the same bytes on disk."""
    body = """
from cext import crc32c, sha256
write()
print(sha256.implementation(), crc32c.hardware())
"""
    run(shim, tmp_path / "native", body)
    printed = run(shim, tmp_path / "portable", body, RINGVAULT_PORTABLE=1)
    assert printed == "portable False"
    assert (tmp_path / "portable").read_bytes() == (tmp_path / "native").read_bytes()


# ---- aligned transfers ----


def test_aligned_buffer() -> None:
    buffer = AlignedBuffer(5000)
    view = memoryview(buffer)
    assert (len(buffer), buffer.nbytes, view.nbytes, view.readonly) == (5000, 5000, 5000, False)
    assert np.frombuffer(view, np.uint8).ctypes.data % BLOCK == 0
    assert not any(view)
    view[:3] = b"abc"
    assert bytes(memoryview(buffer)[:4]) == b"abc\0"
    for nbytes in (0, -1, (1 << 31) + 1):
        with pytest.raises(ValueError):
            AlignedBuffer(nbytes)


@given(st.integers(0, 3 * MIB))
@settings(max_examples=15, deadline=None)
def test_write_aligned_pads_with_zeros(nbytes: int) -> None:
    """Also past the bounce buffer's 1 MiB."""
    data = np.random.default_rng(nbytes).bytes(nbytes)
    with open(os.memfd_create("file"), "r+b") as file:
        file.write(b"\xff" * 4 * MIB)
        file.flush()
        write_aligned(file.fileno(), BLOCK, data)
        file.seek(0)
        stored = file.read()
    padded = -(-nbytes // BLOCK) * BLOCK
    assert stored[BLOCK : BLOCK + padded] == data + bytes(padded - nbytes)
    assert stored[:BLOCK] == b"\xff" * BLOCK
    assert set(stored[BLOCK + padded :]) == {0xFF}


def test_read_aligned_is_short_only_at_the_end(tmp_path: Path) -> None:
    data = np.random.default_rng(4).bytes(10_000)
    (tmp_path / "file").write_bytes(data)
    buffer = AlignedBuffer(16_384)
    with (tmp_path / "file").open("rb") as file:
        assert read_aligned(file.fileno(), 0, buffer, 8192) == 8192
        assert bytes(buffer)[:8192] == data[:8192]
        assert read_aligned(file.fileno(), 4096, buffer, 16_384) == 5904
        assert bytes(buffer)[:5904] == data[4096:]
        assert read_aligned(file.fileno(), 40_960, buffer, 4096) == 0
        assert read_aligned(file.fileno(), 0, buffer, 0) == 0


def test_read_aligned_refuses_what_direct_io_would(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    buffer = AlignedBuffer(8192)
    with (tmp_path / "file").open("rb") as file:
        fd = file.fileno()
        for offset, target, length in (
            (1, buffer, 4096),
            (-4096, buffer, 4096),
            (0, buffer, 100),
            (0, buffer, 12_288),
            (0, memoryview(buffer)[1:], 4096),
        ):
            with pytest.raises(ValueError):
                read_aligned(fd, offset, target, length)
        with pytest.raises((BufferError, TypeError)):
            read_aligned(fd, 0, bytes(8192), 4096)
    with pytest.raises(ValueError):
        write_aligned(fd, 100, b"x")
    with pytest.raises(OSError) as caught:
        read_aligned(fd, 0, buffer, 4096)
    assert caught.value.errno == errno.EBADF


def test_places_are_values() -> None:
    one = RecordPlace(1, 4096, 2, 3, bytes(32))
    assert one == RecordPlace(1, 4096, 2, 3, bytes(32)) and one != RecordPlace(2, 4096, 2, 3, b"")
    assert hash(one) == hash(RecordPlace(1, 4096, 2, 3, bytes(32)))
    assert "offset_blocks=1" in repr(one)
    with pytest.raises(AttributeError):
        one.offset_blocks = 5  # type: ignore[misc]


def test_the_oracle_objects_to_damage(tmp_path: Path, pool: ArenaPool) -> None:
    """An oracle that takes anything would prove nothing."""
    fragment = make(pool, plain(4))
    seal([fragment])
    write(tmp_path / "slots", [fragment], block=0)
    data = (tmp_path / "slots").read_bytes()
    assert codec_config(data, parse_header(data)) == oracle.decode(data).config
    for at in (0, 9, 60, 200, 230, 245, 257, 300, 500, 3000, 4095, 4096, 9000, len(data) - 1):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(oracle.Broken):
            oracle.decode(bytes(damaged))
