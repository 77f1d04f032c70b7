"""Making a volume: an empty directory becomes a preallocated ring of slots.

Refuses a directory with anything in it and a disk with too little room, before writing a byte.
The superblock is written last: a directory without one was never finished.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from storage.base.disk import BLOCK_BYTES, Disk, Progress, RealDisk, open_slots, round_up
from storage.base.timebase import format_size
from storage.errors import CapacityError, DiskError, VolumeMissing, VolumeNotEmpty
from storage.volume import superblock
from storage.volume.format import HEADER_BYTES_MAX, SUPERBLOCK_COPIES, VOLUME_TRIAL
from storage.volume.superblock import Superblock
from storage.volume.table import table_bytes, table_header

SLOT_BYTES_DEFAULT = 256 << 20
SLOT_BYTES_MIN = 1 << 20
SLOT_COUNT_MIN = 4
SLOT_COUNT_MAX = 1 << 24
VOLUME_NUMBER_MAX = 65_535

# What mkfs leaves in a fresh file system.
_IGNORED_NAMES = frozenset({"lost+found"})


def create_volume(
    path: Path,
    *,
    number: int,
    installation_uuid: bytes,
    size_bytes: int,
    created_ns: int,
    slot_size_bytes: int = SLOT_BYTES_DEFAULT,
    trial: bool = False,
    disk: Disk | None = None,
    progress: Progress | None = None,
) -> Superblock:
    """Create a volume of at most ``size_bytes``, all space allocated now.

    ``progress(done_bytes, total_bytes)`` is called at least once a GiB. On any failure what was
    created is removed again. Raises VolumeNotEmpty, VolumeMissing (no parent directory),
    CapacityError (with numbers), DiskError.
    """
    disk = disk or RealDisk()
    assert 0 <= number <= VOLUME_NUMBER_MAX and len(installation_uuid) == 16
    made_directory = _prepare_directory(path, number)
    try:
        slot_count = _plan(disk, path, size_bytes, slot_size_bytes)
        block = Superblock(
            volume_uuid=uuid.uuid4().bytes,
            installation_uuid=installation_uuid,
            sequence=1,
            created_ns=created_ns,
            slot_size_bytes=slot_size_bytes,
            slot_count=slot_count,
            volume_number=number,
            flags=VOLUME_TRIAL if trial else 0,
            trusted_ns=created_ns,
            wall_ns=created_ns,
            open_id=0,
        )
        _write_files(disk, path, block, progress)
    except BaseException as error:
        _remove_created(path, made_directory)
        if isinstance(error, OSError):
            raise DiskError("creating the volume", error, path=path, number=number) from error
        raise
    return block


def _prepare_directory(path: Path, number: int) -> bool:
    """True if the directory had to be made."""
    try:
        found = sorted(entry.name for entry in os.scandir(path))
    except FileNotFoundError:
        try:
            path.mkdir(mode=0o750)
        except FileNotFoundError as error:
            raise VolumeMissing(
                f"its parent directory {path.parent} does not exist; mount or create it first",
                path=path,
                number=number,
            ) from error
        except OSError as error:
            raise DiskError("mkdir", error, path=path, number=number) from error
        return True
    except OSError as error:
        raise DiskError("listing the directory", error, path=path, number=number) from error
    if rest := [name for name in found if name not in _IGNORED_NAMES]:
        shown = ", ".join(rest[:3]) + (", ..." if len(rest) > 3 else "")
        raise VolumeNotEmpty(
            f"the directory holds {len(rest)} entries ({shown}); a volume needs one of its own. "
            "Nothing was written",
            path=path,
            number=number,
        )
    return False


def _plan(disk: Disk, path: Path, size_bytes: int, slot_size_bytes: int) -> int:
    """Number of slots. Raises CapacityError."""
    if slot_size_bytes % BLOCK_BYTES or not SLOT_BYTES_MIN <= slot_size_bytes < 1 << 40:
        raise CapacityError(
            f"slot size {slot_size_bytes} bytes: use a multiple of {BLOCK_BYTES} "
            f"from {SLOT_BYTES_MIN} up",
            needed=SLOT_BYTES_MIN,
            available=slot_size_bytes,
            unit="bytes",
        )
    overhead = SUPERBLOCK_COPIES * BLOCK_BYTES + BLOCK_BYTES + 2 * BLOCK_BYTES
    slot_count = (size_bytes - overhead) // (slot_size_bytes + 64)
    if slot_count < SLOT_COUNT_MIN:
        raise CapacityError(
            f"a volume at {path} needs at least {SLOT_COUNT_MIN} slots of "
            f"{format_size(slot_size_bytes)}, {format_size(SLOT_COUNT_MIN * slot_size_bytes)} "
            f"and a little; {format_size(size_bytes)} was asked for",
            needed=SLOT_COUNT_MIN * (slot_size_bytes + 64) + overhead,
            available=size_bytes,
            unit="bytes",
        )
    needed = slot_count * slot_size_bytes + round_up(table_bytes(slot_count)) + overhead
    free = disk.free_bytes(path)
    if free < needed:
        raise CapacityError(
            f"a volume of {format_size(needed)} does not fit at {path}: "
            f"{format_size(free)} ({free} bytes) are free, {needed} bytes are needed",
            needed=needed,
            available=free,
            unit="bytes",
        )
    return min(slot_count, SLOT_COUNT_MAX)


def _write_files(disk: Disk, path: Path, block: Superblock, progress: Progress | None) -> None:
    disk.create(path / "slots", block.slot_count * block.slot_size_bytes, progress)
    disk.create(path / "table", round_up(table_bytes(block.slot_count)), None)
    fd = disk.open(path / "table", write=True, direct=False)
    try:
        disk.write(fd, 0, table_header(block.slot_count, block.volume_uuid))
        disk.datasync(fd)
    finally:
        disk.close(fd)
    for name in ("lock", "owner"):
        (path / name).touch(mode=0o640, exist_ok=False)
    disk.create(path / "superblock", SUPERBLOCK_COPIES * BLOCK_BYTES, None)
    fd, _ = open_slots(disk, path / "superblock", write=True)
    try:
        superblock.write(disk, fd, block)
    finally:
        disk.close(fd)
    disk.sync_directory(path)
    disk.sync_directory(path.parent)


def _remove_created(path: Path, made_directory: bool) -> None:
    for name in ("superblock", "owner", "lock", "table", "slots"):
        (path / name).unlink(missing_ok=True)
    if made_directory:
        path.rmdir()


assert SLOT_BYTES_MIN > 2 * HEADER_BYTES_MAX
