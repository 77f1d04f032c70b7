"""Structured logs to standard error: one event a line, JSON or readable.

Owns the configuration of structlog and of the standard library's root logger (uvicorn, asyncio),
the redaction of credentials and the storm limiter's place in the chain. Never writes a file: the
service manager keeps logs.

- No credential leaves: every string of every event passes :func:`redact`.
- Lines at warning and above pass the storm limiter, per cause: event name, ``camera`` and ``code``.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections.abc import Mapping, MutableMapping
from typing import Any, Literal, TextIO

import structlog

from gateway.telemetry.storm import StormLimiter

LogFormat = Literal["auto", "console", "json"]

# user:password@ of a URL's authority; the password may itself hold "@", the last one counts.
_USERINFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)(?P<userinfo>[^/?#\s\"'<>]*)@")
_AUTHORIZATION = re.compile(
    r"(?P<name>(?:proxy-)?authorization\s*[:=]\s*[\"']?\s*)(?:basic|digest|bearer)\s[^\r\n]+",
    re.IGNORECASE,
)
# A compact JWS: our grants. Three base64url parts, the first a JSON object.
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{16,}")
_SECRET_KEYS = re.compile(r"password|passwd|secret|token|credential", re.IGNORECASE)


def redact(text: str) -> str:
    """``text`` without the credentials of URLs, authorization headers and grants."""
    text = _USERINFO.sub(r"\g<scheme>***@", text)
    text = _AUTHORIZATION.sub(r"\g<name>***", text)
    return _TOKEN.sub("***", text)


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "replace"))
    if isinstance(value, Mapping):
        return {key: _hidden(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    if value is None or isinstance(value, int | float | bool):
        return value
    return redact(str(value))


def _hidden(key: str, value: Any) -> Any:
    return "***" if _SECRET_KEYS.search(key) and value is not None else _redacted(value)


def _redact_event(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        # structlog's own marks (the standard library's record) are not printed.
        if not key.startswith("_") and key != "exc_info":
            event[key] = _hidden(key, value)
    return event


class _Storm:
    """The limiter as a processor. One per process; events may come from any thread."""

    def __init__(self) -> None:
        self.limiter = StormLimiter(time.monotonic_ns)
        self._lock = threading.Lock()

    def __call__(
        self, _logger: object, method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        level = event.get("level", method)
        if level not in {"warning", "error", "critical"}:
            return event
        cause = (event.get("event"), event.get("camera"), event.get("code"))
        with self._lock:
            suppressed = self.limiter.admit(cause)
        if suppressed is None:
            raise structlog.DropEvent
        if suppressed:
            event["suppressed"] = suppressed
        return event


_storm = _Storm()


def lines_suppressed() -> int:
    """Lines held back by the storm limiter of this process since it started."""
    return _storm.limiter.suppressed_total


def configure_logging(
    level: str, log_format: LogFormat, process: str, stream: TextIO | None = None
) -> None:
    """Set up this process's logging.

    ``process`` is stamped on every line ("supervisor", "worker-0").
    """
    out = sys.stderr if stream is None else stream
    as_json = log_format == "json" or (log_format == "auto" and not out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        _storm,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _stamp(process),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _stamp(process: str) -> structlog.typing.Processor:
    def stamp(
        _logger: object, _method: str, event: MutableMapping[str, Any]
    ) -> MutableMapping[str, Any]:
        event.setdefault("process", process)
        return event

    return stamp


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger; ``name`` is the module's."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
