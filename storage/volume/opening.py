"""Opening a volume: every check between a path in the configuration and a usable volume.

Each refusal says what was found where and what to do. Changes nothing on the disk, except that
``repair`` makes a lost slot table anew (empty: the caller derives its entries, V7).
"""

from __future__ import annotations

import errno
import fcntl
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple

from storage.base.disk import Disk, open_slots, round_up
from storage.errors import DiskError, VolumeBusy, VolumeCorrupt, VolumeForeign, VolumeMissing
from storage.volume import superblock
from storage.volume.superblock import Superblock
from storage.volume.table import SlotTable, table_bytes, table_header

FILES: Final = ("superblock", "slots", "table", "lock", "owner")


class OpenedFiles(NamedTuple):
    """Descriptors of a volume's files, the table mapped. ``direct``: slots bypass the cache."""

    slots_fd: int
    table_fd: int
    superblock_fd: int
    lock_fd: int
    owner_fd: int
    table: SlotTable
    direct: bool


def open_files(
    path: Path,
    *,
    number: int,
    installation_uuid: bytes,
    write: bool,
    exclusive: bool,
    repair: bool,
    disk: Disk,
) -> tuple[Superblock, OpenedFiles]:
    """See Volume.open. On any refusal everything opened so far is closed again."""
    _check_present(path, number, repair)
    with ExitStack() as undo:

        def opened(name: str, writing: bool) -> int:
            fd = disk.open(path / name, write=writing, direct=False)
            undo.callback(disk.close, fd)
            return fd

        try:
            owner_fd = opened("owner", write)
            _take_owner(owner_fd, exclusive, path, number)
            lock_fd = opened("lock", write)
            superblock_fd, _ = open_slots(disk, path / "superblock", write=write)
            undo.callback(disk.close, superblock_fd)
            block = _check_superblock(disk, superblock_fd, path, number, installation_uuid)
            slots_fd, direct = open_slots(disk, path / "slots", write=write)
            undo.callback(disk.close, slots_fd)
            _check_slots(disk, slots_fd, block, path)
            table_fd, table = _open_table(disk, path, block, write, repair)
            undo.callback(disk.close, table_fd)
        except OSError as error:
            raise DiskError("opening the volume", error, path=path, number=number) from error
        undo.pop_all()
    files = OpenedFiles(slots_fd, table_fd, superblock_fd, lock_fd, owner_fd, table, direct)
    return block, files


def _check_present(path: Path, number: int, repair: bool) -> None:
    if not path.is_dir():
        raise VolumeMissing(
            "no such directory. Is the disk mounted? Correct the path in the configuration, "
            "or create the volume",
            path=path,
            number=number,
        )
    missing = [name for name in FILES if not (path / name).is_file()]
    if repair and "table" in missing:
        missing.remove("table")
    if len(missing) == len(FILES):
        raise VolumeMissing(
            "the directory holds no volume. Is the disk mounted there?", path=path, number=number
        )
    if missing == ["table"]:
        raise VolumeCorrupt(
            "the slot table is missing. The footage is not affected; stop serve and run "
            "`ringvault index rebuild`",
            path=path,
            number=number,
        )
    if missing:
        raise VolumeMissing(
            f"{', '.join(missing)} missing: a volume that was never finished, or files were "
            "removed. Restore them, or empty the directory and create the volume again",
            path=path,
            number=number,
        )


def _take_owner(fd: int, exclusive: bool, path: Path, number: int) -> None:
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        raise VolumeBusy(
            "another process is using it; stop `ringvault serve` and other commands first"
            if exclusive
            else "it is under offline repair by another process; wait until that ends",
            path=path,
            number=number,
        ) from error


def _check_superblock(
    disk: Disk, fd: int, path: Path, number: int, installation_uuid: bytes
) -> Superblock:
    quorum = superblock.read(disk, fd)
    block = quorum.chosen
    if block is None:
        raise VolumeCorrupt(
            f"no two superblock copies agree ({'; '.join(quorum.faults)}). Restore the "
            "`superblock` file from a backup; do not create the volume anew over its footage",
            path=path,
            number=number,
        )
    if block.installation_uuid != installation_uuid:
        raise VolumeForeign(
            f"it belongs to installation {block.installation_uuid.hex()}, this one is "
            f"{installation_uuid.hex()}. Mount the right disk or correct the configuration",
            path=path,
            number=number,
        )
    if block.volume_number != number:
        raise VolumeForeign(
            f"it is volume {block.volume_number} of this installation; two paths are swapped. "
            "Correct the configuration",
            path=path,
            number=number,
        )
    return block


def _check_slots(disk: Disk, fd: int, block: Superblock, path: Path) -> None:
    expected = block.slot_count * block.slot_size_bytes
    found = disk.size_bytes(fd)
    if found != expected:
        raise VolumeCorrupt(
            f"the `slots` file has {found} bytes, the superblock says {expected}. It was "
            "truncated or replaced: check the file system, restore it if you can; what is left "
            "can still be copied out",
            path=path,
            number=block.volume_number,
        )


def _open_table(
    disk: Disk, path: Path, block: Superblock, write: bool, repair: bool
) -> tuple[int, SlotTable]:
    name = path / "table"
    length = table_bytes(block.slot_count)
    fresh = False
    if repair and (not name.is_file() or name.stat().st_size < length):
        name.unlink(missing_ok=True)
        disk.create(name, round_up(length), None)
        fresh = True
    fd = disk.open(name, write=write, direct=False)
    try:
        if disk.size_bytes(fd) < length:
            raise _table_corrupt(f"has {disk.size_bytes(fd)} bytes, not {length}", block, path)
        table = SlotTable(disk.map(fd, length, write=write), block.slot_count)
        fault = table.header_fault(block.volume_uuid)
        if fault is not None and not repair:
            table.close()
            raise _table_corrupt(fault, block, path)
        if fault is not None or fresh:
            table.put_header(table_header(block.slot_count, block.volume_uuid))
    except BaseException:
        disk.close(fd)
        raise
    return fd, table


def _table_corrupt(fault: str, block: Superblock, path: Path) -> VolumeCorrupt:
    return VolumeCorrupt(
        f"the slot table is unusable: {fault}. The footage is not affected; stop serve and run "
        "`ringvault index rebuild`",
        path=path,
        number=block.volume_number,
    )
