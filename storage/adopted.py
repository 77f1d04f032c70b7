"""Slots sealed by recovery, or by a worker that is gone: when may they be called INDEXED?

Owns I5 for slots whose records this process did not publish itself. Recovery put their entries into
the rings but made nothing durable, so that recording begins at once; the recorder's checkpoint
thread finishes the work here. Never blocks anything: a slot left over is merely scanned again.

A slot is done when for each of its cameras a flushed_head at or beyond the ring's head, as seen
after the slot was sealed, has been made durable: by the camera's own writer, wherever it runs, and
one fdatasync after that; or by closing the ring here when nobody has it open.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from storage.errors import DiskError, IndexCorrupt, RecordInvalid, StorageError
from storage.index.files import IndexBusy, sync_file
from storage.index.format import WORD_FLUSHED_HEAD, WORD_HEAD
from storage.index.mapping import index_path
from storage.index.writer import CameraIndexWriter
from storage.store import Store

SlotKey = tuple[int, int, int]  # volume number, slot, generation

_WORDS: Final = struct.Struct("<QQQ")
assert WORD_FLUSHED_HEAD == WORD_HEAD + 2


class AdoptedSlots:
    """Used by one thread. Worker 0 also adopts what workers left that no longer exist."""

    def __init__(self, store: Store, worker: int) -> None:
        self._store = store
        self._worker = worker
        self._cameras_of: dict[SlotKey, set[bytes]] = {}
        self._wanted_head: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._cameras_of)

    def find(self) -> None:
        """Note what is sealed and not INDEXED now; call before anything is recorded."""
        for volume in self._store.volumes.values():
            for slot in range(volume.slot_count):
                entry = volume.table.get(slot)
                if entry is None or not entry.sealed or entry.indexed:
                    continue
                if self._worker not in (0, entry.worker):
                    continue
                try:
                    footer = volume.read_footer(slot, entry.generation)
                except RecordInvalid:
                    continue  # fsck and recovery report it; recovery will walk it every time
                uids = {uid.tobytes() for uid in footer.entries["camera_uid"]}
                self._cameras_of[(volume.number, slot, entry.generation)] = uids

    def advance(self) -> list[SlotKey]:
        """Slots that are done since the last call. Call after each checkpoint."""
        if not self._cameras_of:
            return []
        for uid in set().union(*self._cameras_of.values()):
            if self._covered(uid):
                for uids in self._cameras_of.values():
                    uids.discard(uid)
        done = [key for key, uids in self._cameras_of.items() if not uids]
        for key in done:
            del self._cameras_of[key]
        return done

    def _covered(self, uid: bytes) -> bool:
        path = index_path(self._store.paths.index, uid)
        try:
            writer = CameraIndexWriter(path, self._store)
        except IndexBusy:
            pass
        except (IndexCorrupt, StorageError):
            return False  # rebuilt, or reported, elsewhere
        else:
            writer.close()
            return True
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            head, _, flushed_head = _WORDS.unpack(os.pread(fd, _WORDS.size, WORD_HEAD * 8))
            if flushed_head < self._wanted_head.setdefault(uid, head):
                return False
            sync_file(fd, path)
        except (OSError, DiskError):
            return False
        finally:
            os.close(fd)
        return True
