"""An installation on disk: made once, opened by every process.

Owns the making of its directory, keys and configuration, and the lock that lets one ``serve``
run. Volumes are made by storage; the layout is ``storage.layout``.

- The configuration file is written last: a directory without one was never finished, and a failed
  ``init`` leaves nothing behind.
- Keys and database are readable by their owner only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.config import Config, load_config, render_config
from gateway.errors import GatewayError
from gateway.ingest.registry import SqliteRegistry
from storage.base.timebase import format_rfc3339
from storage.layout import InstallationPaths
from storage.store import Store, VolumeConfig
from storage.volume.create import (
    SLOT_BYTES_DEFAULT,
    SLOT_BYTES_MIN,
    SLOT_COUNT_MIN,
    create_volume,
)

# A volume has at least this many slots where it can: few large ones make a coarse ring.
_SLOTS_WANTED = 64
# The largest access unit and its header must fit; below this only toys are made.
_SLOT_BYTES_USEFUL = 32 << 20

VolumeProgress = Callable[[int, int, int], None]


class InitRefused(GatewayError):
    """``init`` cannot make an installation there."""

    code = "INIT_REFUSED"


class KeyUnusable(GatewayError):
    """A key file is missing, unreadable or no Ed25519 key."""

    code = "KEY"


class AlreadyServing(GatewayError):
    """Another ``serve`` runs on this installation."""

    code = "VOLUME_BUSY"


@dataclass(frozen=True, slots=True)
class Installation:
    """Configuration and paths. Opening keys, registry or store is left to who needs them."""

    config: Config
    paths: InstallationPaths

    @classmethod
    def load(cls, config_file: Path) -> Installation:
        """Read the configuration. Raises ConfigError."""
        config = load_config(config_file)
        return cls(config, InstallationPaths(config_file.absolute().parent))

    @property
    def uuid(self) -> bytes:
        """16 bytes, as volumes and grants carry them."""
        return self.config.installation.uuid.bytes

    @property
    def trial(self) -> bool:
        """Has no legal minimum of days; stamped on all it delivers."""
        return self.config.installation.trial

    @property
    def control_socket(self) -> Path:
        return self.paths.run / "control.sock"

    def registry(self) -> SqliteRegistry:
        """Open the registry. Raises RegistryError."""
        return SqliteRegistry(self.paths.database)

    def signing_key(self) -> Ed25519PrivateKey:
        """The private key of grants. Raises KeyUnusable."""
        key = _load_key(
            self.paths.grant_key, lambda data: serialization.load_pem_private_key(data, None)
        )
        if not isinstance(key, Ed25519PrivateKey):
            raise _unusable(self.paths.grant_key, "no Ed25519 private key")
        return key

    def verify_key(self) -> Ed25519PublicKey:
        """The public key of grants. Raises KeyUnusable."""
        key = _load_key(self.paths.grant_pub, serialization.load_pem_public_key)
        if not isinstance(key, Ed25519PublicKey):
            raise _unusable(self.paths.grant_pub, "no Ed25519 public key")
        return key


def _load_key(file: Path, load: Callable[[bytes], object]) -> object:
    try:
        return load(file.read_bytes())
    except OSError as error:
        raise _unusable(file, error.strerror or str(error)) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(file, f"not a key in PEM form: {error}") from error


def _unusable(file: Path, reason: str) -> KeyUnusable:
    return KeyUnusable(f"{file}: {reason}", remedy="restore the key from a backup")


@dataclass(frozen=True, slots=True)
class NewVolume:
    """One ``--volume``. ``path`` absolute."""

    path: Path
    size_bytes: int


def create_installation(
    root: Path,
    volumes: Sequence[NewVolume],
    *,
    trial: bool,
    name: str,
    now_ns: int,
    http_port: int = 8080,
    workers: int = 1,
    progress: VolumeProgress | None = None,
) -> Installation:
    """Make it: directories, keys, volumes (all space allocated now), then the configuration.

    ``progress(index of the volume, done_bytes, total_bytes)``. Raises InitRefused, and what
    ``create_volume`` raises; whatever was made by then is removed again.
    """
    root = root.absolute()
    _refuse_occupied(root)
    _refuse_overlap(root, volumes)
    new_uuid = uuid.uuid4()
    with contextlib.ExitStack() as undo:
        _make_directories(root, undo)
        paths = InstallationPaths(root)
        _make_keys(paths)
        for index, volume in enumerate(volumes):
            _make_volume(volume, index, new_uuid, trial, now_ns, progress, undo)
        SqliteRegistry(paths.database).close()
        text = render_config(
            uuid=new_uuid,
            name=name,
            trial=trial,
            volumes=[(i, _relative(v.path, root)) for i, v in enumerate(volumes, start=1)],
            http_port=http_port,
            workers=workers,
        )
        _write_private(paths.config, text.encode())
        installation = Installation.load(paths.config)
        undo.pop_all()
    return installation


def _refuse_occupied(root: Path) -> None:
    try:
        found = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise InitRefused(f"{root} is a file", remedy="name a directory") from error
    if found:
        shown = ", ".join(found[:3]) + (", ..." if len(found) > 3 else "")
        raise InitRefused(
            f"{root} is not empty: it holds {len(found)} entries ({shown}). Nothing was written",
            remedy="name a new or empty directory: `init` never overwrites anything",
        )


def _refuse_overlap(root: Path, volumes: Sequence[NewVolume]) -> None:
    if not volumes:
        raise InitRefused("no volume was named", remedy="give --volume PATH:SIZE at least once")
    paths = [volume.path for volume in volumes]
    for number, path in enumerate(paths):
        inside = [p for p in paths[:number] if p == path or p in path.parents or path in p.parents]
        if inside:
            raise InitRefused(
                f"volume {path} is, or lies in, volume {inside[0]}",
                remedy="give each volume a directory of its own, best a disk of its own",
            )
        if path == root:
            raise InitRefused(
                f"volume {path} is the installation's own directory",
                remedy=f"name a directory in it, such as {root / 'volume'}",
            )


def _make_directories(root: Path, undo: contextlib.ExitStack) -> None:
    existed = root.exists()
    try:
        root.mkdir(mode=0o750, parents=True, exist_ok=True)
        undo.callback(_empty if existed else shutil.rmtree, root)
        paths = InstallationPaths(root)
        for directory in (paths.keys, paths.database.parent, paths.run):
            directory.mkdir(mode=0o700)
        for directory in (paths.index, paths.audit):
            directory.mkdir(mode=0o750)
    except OSError as error:
        raise InitRefused(
            f"{error.filename or root}: {error.strerror}", remedy="choose a directory you may write"
        ) from error


def _empty(directory: Path) -> None:
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _make_keys(paths: InstallationPaths) -> None:
    key = Ed25519PrivateKey.generate()
    _write_private(
        paths.grant_key,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    _write_private(paths.grant_pub, public)


def _write_private(file: Path, data: bytes) -> None:
    """A new file, mode 0600, durable."""
    fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def _make_volume(
    volume: NewVolume,
    index: int,
    installation_uuid: uuid.UUID,
    trial: bool,
    now_ns: int,
    progress: VolumeProgress | None,
    undo: contextlib.ExitStack,
) -> None:
    existed = volume.path.exists()
    create_volume(
        volume.path,
        number=index + 1,
        installation_uuid=installation_uuid.bytes,
        size_bytes=volume.size_bytes,
        created_ns=now_ns,
        slot_size_bytes=slot_size_for(volume.size_bytes),
        trial=trial,
        progress=None if progress is None else lambda done, total: progress(index, done, total),
    )
    undo.callback(_empty if existed else shutil.rmtree, volume.path)


def slot_size_for(size_bytes: int) -> int:
    """A power of two: 256 MiB, or less where that would leave too few slots."""
    slot_bytes = SLOT_BYTES_DEFAULT
    while slot_bytes > _SLOT_BYTES_USEFUL and size_bytes // slot_bytes < _SLOTS_WANTED:
        slot_bytes //= 2
    while slot_bytes > SLOT_BYTES_MIN and size_bytes // slot_bytes <= SLOT_COUNT_MIN:
        slot_bytes //= 2
    return slot_bytes


def _relative(path: Path, root: Path) -> Path:
    """Volumes inside the installation move with it."""
    return path.relative_to(root) if root in path.parents else path


class ServeLock:
    """``run/serve.lock``: one supervisor and its children at a time (G1)."""

    def __init__(self, run: Path) -> None:
        self._file = run / "serve.lock"
        self._fd = -1

    @property
    def fd(self) -> int:
        """Children inherit it, so that the lock outlives a supervisor that was killed."""
        assert self._fd >= 0
        return self._fd

    def try_acquire(self, description: str) -> str | None:
        """None: it is ours, ``description`` is in it. Else what its holder wrote there."""
        fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 4096, 0).decode("utf-8", "replace").strip()
            os.close(fd)
            return holder or "an unknown process"
        os.ftruncate(fd, 0)
        os.pwrite(fd, description.encode(), 0)
        self._fd = fd
        return None

    def release(self) -> None:
        """Let go; children that still run keep it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder_description(now_ns: int) -> str:
    """What ``serve.lock`` says of us."""
    return f"pid {os.getpid()}, started {format_rfc3339(now_ns)}"


def holder_is_alive(description: str) -> bool:
    """False when the supervisor that wrote it is gone, so that only its children hold the lock."""
    pid_text = description.removeprefix("pid ").partition(",")[0]
    if not pid_text.isdecimal():
        return True
    try:
        os.kill(int(pid_text), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def offline(installation: Installation, description: str) -> Iterator[None]:
    """Keep ``serve`` away while a command repairs. Raises AlreadyServing."""
    lock = ServeLock(installation.paths.run)
    if holder := lock.try_acquire(description):
        raise AlreadyServing(
            f"`ringvault serve` runs on this installation ({holder})",
            remedy="stop it first",
        )
    try:
        yield
    finally:
        lock.release()


def open_store(
    installation: Installation,
    *,
    write: bool = False,
    exclusive: bool = False,
    repair: bool = False,
) -> Store:
    """All volumes of the configuration, or a typed error. The options are ``Store.open``'s."""
    volumes = [VolumeConfig(v.number, v.path) for v in installation.config.volume]
    return Store.open(
        installation.paths,
        installation.uuid,
        volumes,
        write=write,
        exclusive=exclusive,
        repair=repair,
    )
