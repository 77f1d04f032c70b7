"""The cameras that should be recorded, and those that once were. SQLite behind a narrow protocol.

Owns the table of cameras and its schema's migrations. Never deletes a row: a removed camera keeps
its uid, because its footage stays on the disks to the end of its period and must stay findable.
Knows nothing of law: whoever enrols a camera checks its place first (gateway/app.py).

- The file and its directory are readable by their owner only: camera URLs hold credentials.
- A change is durable (WAL, ``synchronous=FULL``) when the call returns, and all of its cameras
  changed or none.
- ``revision`` increases with every change; the supervisor compares it instead of rows.
- An id, once used, always means the same camera uid, so that an id in a grant is never ambiguous.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import apsw
import apsw.ext

from gateway.errors import GatewayError

BUSY_TIMEOUT_MS = 5_000

_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE camera (
        id             TEXT    PRIMARY KEY,
        uid            BLOB    NOT NULL UNIQUE CHECK (length(uid) = 16),
        url            TEXT    NOT NULL,
        place_category INTEGER NOT NULL CHECK (place_category BETWEEN 1 AND 13),
        place_type     TEXT    NOT NULL,
        basis_doc      TEXT,
        retention      TEXT    NOT NULL,
        transport      TEXT    NOT NULL,
        created_ns     INTEGER NOT NULL,
        removed_ns     INTEGER
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE registry (
        one            INTEGER PRIMARY KEY CHECK (one = 1),
        revision       INTEGER NOT NULL
    ) STRICT;
    INSERT INTO registry VALUES (1, 1);
    """,
)


class RegistryError(GatewayError):
    """The registry refuses or cannot be used."""

    code = "REGISTRY"


class CameraExists(RegistryError):
    """An id is already enrolled."""

    code = "CAMERA_EXISTS"


class CameraUnknown(RegistryError):
    """No camera has this id."""

    code = "CAMERA_UNKNOWN"


@dataclass(frozen=True, slots=True)
class Camera:
    """One enrolled camera.

    ``url`` holds credentials: show ``redact(url)`` only. Times are ns UTC.
    """

    id: str
    uid: bytes
    url: str
    place_category: int
    place_type: str
    basis_doc: str | None
    retention: str
    transport: str
    created_ns: int
    removed_ns: int | None = None

    @property
    def active(self) -> bool:
        """Should be recorded now."""
        return self.removed_ns is None


class Registry(Protocol):
    """What the rest of the gateway may ask of a registry; a cluster puts PostgreSQL behind it."""

    def revision(self) -> int:
        """A number that increases with every change."""
        ...

    def cameras(self, *, removed: bool = False) -> list[Camera]:
        """By id; with ``removed``, those that were removed too."""
        ...

    def camera(self, camera_id: str) -> Camera:
        """The camera, removed or not. Raises CameraUnknown."""
        ...

    def add(self, cameras: Sequence[Camera]) -> list[Camera]:
        """Enrol all or none; returns them as stored. Raises CameraExists."""
        ...

    def remove(self, camera_id: str, removed_ns: int) -> Camera:
        """Stop recording it; its footage stays. Raises CameraUnknown."""
        ...


class SqliteRegistry:
    """The registry of one installation, in one file. Not for use by several threads at once."""

    def __init__(self, file: Path) -> None:
        """Open, creating and migrating as needed. Raises RegistryError."""
        self._file = file
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            # SQLite gives its journal files the mode of the database: create that one tight.
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = apsw.Connection(str(file))
            self._db.set_busy_timeout(BUSY_TIMEOUT_MS)
            self._db.pragma("journal_mode", "wal")
            self._db.pragma("synchronous", "full")
            self._migrate()
        except (apsw.Error, OSError) as error:
            raise self._broken(error) from error

    def close(self) -> None:
        """Close the file; further calls fail."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def revision(self) -> int:
        """See Registry."""
        with self._errors():
            return int(self._one("SELECT revision FROM registry"))

    def cameras(self, *, removed: bool = False) -> list[Camera]:
        """See Registry."""
        where = "" if removed else "WHERE removed_ns IS NULL"
        with self._errors():
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM camera {where} ORDER BY id").fetchall()
        return [_camera(row) for row in rows]

    def camera(self, camera_id: str) -> Camera:
        """See Registry."""
        with self._errors():
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM camera WHERE id = ?", (camera_id,)
            ).fetchone()
        if row is None:
            raise CameraUnknown(
                f"no camera {camera_id!r} is enrolled", remedy="`ringvault camera list` shows all"
            )
        return _camera(row)

    def add(self, cameras: Sequence[Camera]) -> list[Camera]:
        """See Registry. A removed id that is enrolled again keeps the uid it had."""
        stored: list[Camera] = []
        with self._errors(), self._change():
            for camera in cameras:
                known = self._db.execute(
                    "SELECT removed_ns FROM camera WHERE id = ?", (camera.id,)
                ).fetchone()
                if known is not None and known[0] is None:
                    raise CameraExists(
                        f"camera {camera.id!r} is enrolled already",
                        remedy="choose another id, or remove that camera first",
                    )
                self._db.execute(_UPSERT, _row(camera))
                stored.append(self.camera(camera.id))
        return stored

    def remove(self, camera_id: str, removed_ns: int) -> Camera:
        """See Registry."""
        with self._errors(), self._change():
            camera = self.camera(camera_id)
            if camera.removed_ns is not None:
                raise CameraUnknown(
                    f"camera {camera_id!r} was removed already",
                    remedy="`ringvault camera list` shows those that are enrolled",
                )
            self._db.execute(
                "UPDATE camera SET removed_ns = ? WHERE id = ?", (removed_ns, camera_id)
            )
            return self.camera(camera_id)

    @contextmanager
    def _change(self) -> Iterator[None]:
        """One transaction that takes the write lock first and moves the revision."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("UPDATE registry SET revision = revision + 1")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _migrate(self) -> None:
        newest = len(_MIGRATIONS)
        if self._version() == newest:
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            version = self._version()
            if version > newest:
                raise RegistryError(
                    f"{self._file} has schema {version}, this program knows {newest}",
                    remedy="use the newer program that wrote it",
                )
            for number in range(version, newest):
                self._db.execute(_MIGRATIONS[number])
            self._db.pragma("user_version", newest)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _version(self) -> int:
        return int(self._db.pragma("user_version"))

    def _one(self, statement: str) -> Any:
        row = self._db.execute(statement).fetchone()
        assert row is not None
        return row[0]

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except apsw.Error as error:
            raise self._broken(error) from error

    def _broken(self, error: Exception) -> RegistryError:
        if isinstance(error, apsw.BusyError):
            remedy = "another command is changing the registry; try again"
        elif isinstance(error, apsw.NotADBError | apsw.CorruptError):
            remedy = "the file is damaged: restore it from a backup; footage is not affected"
        else:
            remedy = "check the directory's permissions and free space"
        return RegistryError(f"{self._file}: {error}", remedy=remedy)


_COLUMNS = (
    "id, uid, url, place_category, place_type, basis_doc, retention, transport, "
    "created_ns, removed_ns"
)
_UPSERT = f"""
    INSERT INTO camera ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET
        url = excluded.url, place_category = excluded.place_category,
        place_type = excluded.place_type, basis_doc = excluded.basis_doc,
        retention = excluded.retention, transport = excluded.transport, removed_ns = NULL
"""


def _camera(row: tuple[Any, ...]) -> Camera:
    return Camera(*row)


def _row(camera: Camera) -> tuple[Any, ...]:
    return (
        camera.id,
        camera.uid,
        camera.url,
        camera.place_category,
        camera.place_type,
        camera.basis_doc,
        camera.retention,
        camera.transport,
        camera.created_ns,
        camera.removed_ns,
    )
