"""The installation's configuration: one TOML file, read once, frozen.

Owns the file's schema, its defaults and bounds, the errors a person sees when it is wrong, and
the text that ``ringvault init`` writes. Never creates, repairs or migrates anything else.

- An unknown key, a wrong type or a value out of bounds is a ``ConfigError`` naming file, key and
  remedy; nothing is ignored and nothing falls back to a default silently.
- The file is the only source: what an installation does can be read in one place, so the
  environment overrides nothing.
- Relative paths are relative to the directory of the file, which is the root of the installation.

The keys are described in docs/ref/config.md.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic import model_validator as _model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from gateway.errors import GatewayError
from storage.base.timebase import parse_size

CONFIG_FILE_NAME = "ringvault.toml"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})


class ConfigError(GatewayError):
    """The configuration cannot be used; ``key`` is the dotted path inside ``file``, or empty."""

    code = "CONFIG"

    def __init__(self, file: Path, key: str, reason: str, remedy: str) -> None:
        place = f"{file}: {key}: " if key else f"{file}: "
        super().__init__(f"{place}{reason}", remedy=remedy)
        self.file = file
        self.key = key
        self.reason = reason


def _size(value: Any) -> Any:
    """Turn "512MiB" into bytes; leave integers to pydantic."""
    return parse_size(value) if isinstance(value, str) else value


Bytes = Annotated[int, BeforeValidator(_size)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class InstallationTable(_Table):
    """Who this installation is. Written by ``init``; changing it makes the volumes foreign."""

    uuid: Annotated[UUID, Field(strict=False)]
    name: Annotated[str, Field(min_length=1, max_length=200)]
    trial: bool


class StorageTable(_Table):
    """How recorded data reaches the disks."""

    commit_interval_ms: Annotated[int, Field(ge=100, le=60_000)] = 1000
    queue_bytes_max: Annotated[Bytes, Field(ge=16 << 20)] = 512 << 20
    lanes: Annotated[int, Field(ge=1, le=16)] = 2


class VolumeTable(_Table):
    """One volume; ``number`` is what index entries carry and never changes."""

    number: Annotated[int, Field(ge=1, le=65_535)]
    path: Annotated[Path, Field(strict=False)]


class RetentionTable(_Table):
    """The class of a camera that names none."""

    default: Literal["R30", "R90-AT", "TRIAL"] = "R30"


class CapacityTable(_Table):
    """What admission assumes of a camera that has not been measured yet."""

    assumed_kbps: Annotated[int, Field(ge=1, le=1_000_000)] = 4096


class ServerTable(_Table):
    """Processes and the HTTP listener."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    http_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65_535)] = 8080
    admin_token: Annotated[str, Field(min_length=16)] | None = None

    @_model_validator(mode="after")
    def _guard_admin_reads(self) -> ServerTable:
        if self.http_host not in LOOPBACK_HOSTS and self.admin_token is None:
            raise ValueError(
                f"http_host {self.http_host} is open to other machines, but admin_token is not set"
            )
        return self


class IngestTable(_Table):
    """How cameras are connected to."""

    connect_timeout_s: Annotated[float, Field(gt=0, le=300, strict=False)] = 10.0
    stall_timeout_s: Annotated[float, Field(gt=0, le=600, strict=False)] = 5.0
    retry_first_s: Annotated[float, Field(gt=0, le=60, strict=False)] = 0.2
    retry_max_s: Annotated[float, Field(gt=0, le=3600, strict=False)] = 30.0
    stagger_per_s: Annotated[float, Field(gt=0, le=100_000, strict=False)] = 50.0
    rcvlowat_bytes_max: Annotated[Bytes, Field(ge=1, le=16 << 20)] = 128 << 10
    user_agent: Annotated[str, Field(min_length=1, max_length=100)] = "ringvault"

    @_model_validator(mode="after")
    def _order_retries(self) -> IngestTable:
        if self.retry_first_s > self.retry_max_s:
            raise ValueError("retry_first_s is larger than retry_max_s")
        return self


class LogTable(_Table):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"


def _unique_volumes(volumes: tuple[VolumeTable, ...]) -> tuple[VolumeTable, ...]:
    numbers = [volume.number for volume in volumes]
    if len(set(numbers)) != len(numbers):
        raise ValueError("two volumes have the same number")
    return volumes


class Config(BaseSettings):
    """Everything the file says. Build it with :func:`load_config`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    installation: InstallationTable
    storage: StorageTable = StorageTable()
    volume: Annotated[tuple[VolumeTable, ...], Field(min_length=1), AfterValidator(_unique_volumes)]
    retention: RetentionTable = RetentionTable()
    capacity: CapacityTable = CapacityTable()
    server: ServerTable = ServerTable()
    ingest: IngestTable = IngestTable()
    log: LogTable = LogTable()

    @_model_validator(mode="after")
    def _keep_trial_apart(self) -> Config:
        if self.installation.trial != (self.retention.default == "TRIAL"):
            raise ValueError(
                "retention.default is TRIAL exactly on an installation made with `init --trial`; "
                f"here installation.trial is {str(self.installation.trial).lower()} and "
                f"retention.default is {self.retention.default}"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what ``load_config`` read from the file."""
        return (init_settings,)


def load_config(file: Path) -> Config:
    """Read ``file``, whose volume paths come back absolute.

    Raises ConfigError: the file is missing, unreadable, no TOML, or holds a key that is unknown,
    of the wrong type or out of bounds.
    """
    file = file.absolute()
    try:
        values = (
            TomlConfigSettingsSource(Config, toml_file=file).toml_data if file.is_file() else None
        )
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(file, "", f"not valid TOML: {error}", "correct that line") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            file, "", f"not UTF-8 (byte {error.start})", "save the file as UTF-8"
        ) from error
    except OSError as error:
        raise ConfigError(
            file,
            "",
            f"cannot be read: {error.strerror}",
            "run as the user who ran `ringvault init`",
        ) from error
    if values is None:
        raise ConfigError(
            file,
            "",
            "no such file",
            "make an installation with `ringvault init DIR --volume PATH:SIZE`, "
            "or name its file with --config",
        )
    try:
        config = Config(**values)
    except ValidationError as error:
        raise _explain(file, error) from error
    root = file.parent
    absolute = tuple(
        volume.model_copy(update={"path": root / volume.path}) for volume in config.volume
    )
    return config.model_copy(update={"volume": absolute})


_REMEDIES = {
    "extra_forbidden": "remove the key or correct its name; docs/ref/config.md lists all keys",
    "missing": "add the key; docs/ref/config.md describes it",
}


def _explain(file: Path, error: ValidationError) -> ConfigError:
    """The first complaint in full; the number of further ones in its remedy."""
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"])
    reason = {
        "extra_forbidden": "unknown key",
        "missing": "missing",
    }.get(first["type"], "")
    if not reason:
        shown = first["msg"].removeprefix("Value error, ")
        reason = shown[:1].lower() + shown[1:]
        if key and not isinstance(first["input"], dict | list) and "admin_token" not in key:
            reason += f" (it is {first['input']!r})"
    remedy = _REMEDIES.get(first["type"], "correct the value; docs/ref/config.md gives the bounds")
    if "admin_token is not set" in reason:
        remedy = "set server.admin_token to a long random string, or bind to 127.0.0.1"
    if others:
        more = ", ".join(".".join(str(part) for part in other["loc"]) for other in others[:5])
        remedy += f" (and look at: {more})"
    return ConfigError(file, key, reason, remedy)


_TEMPLATE = """\
# Ringvault installation. Every key: docs/ref/config.md. An unknown key is an error.

[installation]
# Written once by `ringvault init`. The volumes carry this uuid and refuse any other.
uuid = "{uuid}"
name = {name}
# A trial has no legal minimum of days and can never become a production node.
trial = {trial}

[storage]
# A frame is durable at most this long after it arrived.
commit_interval_ms = 1000
# Recorded data that may wait for one slow disk before frames are dropped (and the gap recorded).
queue_bytes_max = "512MiB"
# Open slots per worker and volume; more spread the cameras wider.
lanes = 2

{volumes}
[retention]
# Class of a camera that names none: R30 (30 days) or R90-AT (90 days); TRIAL on a trial.
default = "{retention}"

[capacity]
# What admission assumes of a camera before it has been measured.
assumed_kbps = 4096

[server]
# Ingest processes. One core records several hundred cameras of 4 Mbit/s.
workers = {workers}
# Other than loopback needs admin_token, which then guards cameras, status and coverage.
http_host = "127.0.0.1"
http_port = {http_port}
# admin_token = "a long random string"

[ingest]
connect_timeout_s = 10
# No frame for this long: the connection is closed and made anew.
stall_timeout_s = 5
retry_first_s = 0.2
retry_max_s = 30
# Connections opened per second at start.
stagger_per_s = 50
# The kernel wakes us once this much has arrived (adapted to each camera's bit rate).
rcvlowat_bytes_max = "128KiB"
user_agent = "ringvault"

[log]
level = "info"
# auto: readable on a terminal, JSON otherwise.
format = "auto"
"""


def render_config(
    *,
    uuid: UUID,
    name: str,
    trial: bool,
    volumes: Sequence[tuple[int, Path]],
    http_port: int = 8080,
    workers: int = 1,
) -> str:
    """The commented text of a new ``ringvault.toml``; ``load_config`` accepts it."""
    tables = "".join(
        f"[[volume]]\nnumber = {number}\npath = {_quote(str(path))}\n\n" for number, path in volumes
    )
    return _TEMPLATE.format(
        uuid=uuid,
        name=_quote(name),
        trial=str(trial).lower(),
        volumes=tables,
        retention="TRIAL" if trial else "R30",
        http_port=http_port,
        workers=workers,
    )


def _quote(text: str) -> str:
    """A TOML basic string."""
    escaped = "".join(
        f"\\u{ord(c):04X}" if ord(c) < 0x20 or ord(c) == 0x7F else c
        for c in text.replace("\\", "\\\\").replace('"', '\\"')
    )
    return f'"{escaped}"'
