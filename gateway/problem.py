"""Any error of ours as a person or a program gets to see it: code, message, article, remedy.

Owns the table that gives storage's errors their stable codes and remedies, and the HTTP status of
every code. The command line prints a Problem, the API sends it as JSON; neither shows a
traceback. An exception that is not in our trees is a mistake of ours and has no Problem. All
codes: docs/ref/errors.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from cext.errors import CextError
from gateway.errors import GatewayError
from storage import errors as storage_errors
from storage.errors import GrantRejected, StorageError


@dataclass(frozen=True, slots=True)
class Problem:
    """``article`` is empty where no law is involved; ``status`` is HTTP's."""

    code: str
    message: str
    article: str
    remedy: str
    status: int


# The most special class first: the first that matches counts.
_STORAGE: tuple[tuple[type[StorageError], str, str], ...] = (
    (
        storage_errors.VolumeMissing,
        "VOLUME_MISSING",
        "mount the disk, or correct the path in ringvault.toml; nothing was written elsewhere",
    ),
    (
        storage_errors.VolumeForeign,
        "VOLUME_FOREIGN",
        "mount the volume that belongs here; this one was not touched",
    ),
    (
        storage_errors.VolumeCorrupt,
        "VOLUME_CORRUPT",
        "run `ringvault fsck`; do not initialise the volume again, its footage may be recoverable",
    ),
    (storage_errors.VolumeBusy, "VOLUME_BUSY", "stop the process that holds it, then try again"),
    (
        storage_errors.VolumeNotEmpty,
        "VOLUME_NOT_EMPTY",
        "name an empty directory: `init` never overwrites anything",
    ),
    (
        storage_errors.VolumeFull,
        "VOLUME_FULL",
        "add a volume; footage inside its legal period is never overwritten",
    ),
    (
        storage_errors.RetentionMismatch,
        "RETENTION_MISMATCH",
        "make a separate installation for trials: a trial never becomes a production node",
    ),
    (storage_errors.DiskError, "DISK_ERROR", "check the disk and its file system"),
    (
        storage_errors.CapacityError,
        "CAPACITY",
        "ask for less, free some space, or name a larger disk",
    ),
    (storage_errors.IndexCorrupt, "INDEX_CORRUPT", "stop serve and run `ringvault index rebuild`"),
    (storage_errors.DamagedFragment, "DAMAGED", "run `ringvault fsck --level full`"),
    (
        storage_errors.FootageGone,
        "FOOTAGE_GONE",
        "its legal period has passed and it was overwritten: it cannot be had any more",
    ),
    (
        storage_errors.AuditBroken,
        "AUDIT_BROKEN",
        "keep the audit directory as it is and have it examined; nothing is handed out meanwhile",
    ),
    (storage_errors.RecorderStopped, "RECORDER_STOPPED", "start `ringvault serve`"),
    (storage_errors.ValueFormatError, "BAD_VALUE", "write the value as the message shows"),
)

_TOO_FEW_DAYS = "add a volume or a larger disk, lower the bit rate, or record fewer cameras"
_PERIOD_ARTICLE = "measure art. 21(7); Reg-799 art. 17"
_GRANT_ARTICLE = "measure art. 24"
_GRANT_REMEDIES = {
    "EXPIRED": "have a new grant made with `ringvault grant create`",
    "OUT_OF_SCOPE": "ask only for what the grant names, or have another made",
    "BAD_SIGNATURE": "use the grant as it was printed; it was changed or made with another key",
    "MALFORMED": "use the grant as it was printed, on one line",
    "WRONG_INSTALLATION": "ask the installation that issued the grant",
}

_STATUS = {
    "NO_GRANT": 401,
    "ADMIN_TOKEN": 401,
    "EXPIRED": 401,
    "BAD_SIGNATURE": 401,
    "MALFORMED": 401,
    "OUT_OF_SCOPE": 403,
    "WRONG_INSTALLATION": 403,
    "PRIVATE_PLACE": 403,
    "CAMERA_UNKNOWN": 404,
    "NOT_FOUND": 404,
    "METHOD_NOT_ALLOWED": 405,
    "CAMERA_EXISTS": 409,
    "FOOTAGE_GONE": 410,
    "RANGE": 416,
    "BAD_VALUE": 422,
    "BUSY": 503,
    "CONTROL": 503,
    "VOLUME_MISSING": 503,
    "AUDIT_BROKEN": 503,
}


def explain(error: BaseException) -> Problem | None:
    """The problem of one of our errors; None for any other exception."""
    if isinstance(error, GrantRejected):
        remedy = _GRANT_REMEDIES.get(error.code, "have a new grant made")
        message = str(error).removeprefix(f"{error.code}: ").removesuffix(f" ({error.article})")
        return problem(error.code, message, remedy, error.article or _GRANT_ARTICLE)
    if isinstance(error, GatewayError):
        return problem(error.code, str(error), error.remedy, getattr(error, "article", ""))
    if isinstance(error, StorageError):
        if isinstance(error, storage_errors.CapacityError) and error.unit == "days":
            return problem("CAPACITY", str(error), _TOO_FEW_DAYS, _PERIOD_ARTICLE)
        for kind, code, remedy in _STORAGE:
            if isinstance(error, kind):
                return problem(code, str(error), remedy)
        return problem("STORAGE", str(error), "look at the log")
    if isinstance(error, CextError):
        return problem("NATIVE", str(error), "look at the log")
    return None


def problem(code: str, message: str, remedy: str, article: str = "") -> Problem:
    """A problem that is no exception; its HTTP status is that of its code, else 500."""
    return Problem(code, message, article, remedy, _STATUS.get(code, 500))
