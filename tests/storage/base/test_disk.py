"""Goal: RealDisk does what the protocol says, aligned or not, direct or not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from storage.base.disk import RealDisk, open_slots, round_up


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    RealDisk().create(path, 4 * 4096, None)
    return path


def test_write_read_direct(file: Path) -> None:
    disk = RealDisk()
    fd, direct = open_slots(disk, file, write=True)
    disk.write(fd, 4096, b"abc" * 2000)
    disk.datasync(fd)
    assert bytes(disk.read(fd, 4096, 6000)) == b"abc" * 2000
    assert bytes(disk.read(fd, 8192, 4096))[6000 - 4096 :] == bytes(2 * 4096 - 6000)
    assert len(disk.read(fd, 3 * 4096, 8192)) == 4096, "short at the end of the file"
    disk.close(fd)
    fd = disk.open(file, write=False, direct=False)
    assert bytes(disk.read(fd, 4096, 6000)) == b"abc" * 2000
    disk.close(fd)
    assert direct in (True, False)


def test_a_map_is_shared(file: Path) -> None:
    disk = RealDisk()
    fd = disk.open(file, write=True, direct=False)
    one, two = disk.map(fd, 4096, write=True), disk.map(fd, 4096, write=False)
    one[5:8] = b"xyz"
    assert two[5:8] == b"xyz"
    with pytest.raises(TypeError):
        two[0:1] = b"!"
    disk.datasync(fd)
    disk.close(fd)
    assert file.read_bytes()[5:8] == b"xyz"


def test_create_never_overwrites(file: Path) -> None:
    with pytest.raises(FileExistsError):
        RealDisk().create(file, 4096, None)


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_refuses_direct_reads_falls_back(file: Path, code: int) -> None:
    class Refusing(RealDisk):
        def read(self, fd: int, offset_bytes: int, length: int) -> memoryview:
            raise OSError(code, os.strerror(code))

    before = len(os.listdir("/proc/self/fd"))
    fd, direct = open_slots(Refusing(), file, write=True)
    assert not direct
    os.close(fd)
    assert len(os.listdir("/proc/self/fd")) == before


def test_other_errors_are_not_taken_for_missing_direct_io(file: Path) -> None:
    class Broken(RealDisk):
        def read(self, fd: int, offset_bytes: int, length: int) -> memoryview:
            raise OSError(errno.EIO, "broken")

    with pytest.raises(OSError, match="broken"):
        open_slots(Broken(), file, write=True)


def test_round_up() -> None:
    assert [round_up(n) for n in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
