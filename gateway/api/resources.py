"""The resources under ``/v1``, health, metrics and documentation. Thin: ask, and pass on.

Owns paths, parameters, headers and status codes. Every error is JSON ``{code, message, article,
remedy}``.

- Footage needs a grant and nothing else; what operators read needs the admin token where one is
  configured.
- Headers of a clip say its truth: gaps, trial, requested and delivered range.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from gateway.api import docs
from gateway.api.clips import ClipRequest, ClipResponse, gaps_header
from gateway.api.models import (
    CoverageAnswer,
    HealthAnswer,
    ProblemAnswer,
    SidecarAnswer,
    coverage_answer,
)
from gateway.api.ranges import Selection, select
from gateway.api.services import Services
from gateway.errors import GatewayError
from gateway.footage import OpenedClip
from gateway.overview import CameraOverview, Overview, judge
from gateway.problem import Problem, explain, problem
from gateway.telemetry.log import get_logger
from gateway.telemetry.metrics import render_metrics
from storage.base.timebase import TimeRange, format_rfc3339, parse_rfc3339
from storage.errors import StorageError

log = get_logger(__name__)

VERSION = "1"
_DESCRIPTION = (
    "Footage of public-security cameras. A clip needs a grant, presented as bearer token, and "
    "every use of one is entered into the audit log before the first byte leaves."
)
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemAnswer, "description": text}
    for status, text in {
        401: "no grant, or one that does not hold",
        403: "the grant does not cover this",
        404: "no such camera",
        503: "too many clips at once, or the supervisor is away",
    }.items()
}


class NoGrant(GatewayError):
    """A clip was asked for without a grant."""

    code = "NO_GRANT"
    article = "measure art. 24, 25"


class NoAdminToken(GatewayError):
    """An operator's resource was asked for without the token."""

    code = "ADMIN_TOKEN"


def create_app(services: Services) -> FastAPI:
    """The ASGI application over ``services``."""
    app = FastAPI(
        title="Ringvault",
        version=VERSION,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
    )
    _add_errors(app)
    _add_operator_resources(app, services)
    _add_clips(app, services)
    _add_own_resources(app, services)
    return app


# ---- errors
# ---------------------------------------------------------------------------------------


def _answer(found: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    body = {
        "code": found.code,
        "message": found.message,
        "article": found.article,
        "remedy": found.remedy,
    }
    extra = dict(headers or {})
    if found.status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="ringvault"'
    if found.status == 503:
        extra["Retry-After"] = "2"
    return JSONResponse(body, status_code=found.status, headers=extra)


def _add_errors(app: FastAPI) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        found = explain(error)
        assert found is not None
        if found.status >= 500:
            log.error("request_failed", path=request.url.path, code=found.code, error=str(error))
        return _answer(found)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "HTTP")
        found = problem(code, f"{request.url.path}: {error.detail}", "/docs lists what there is")
        return _answer(found, dict(error.headers or {}))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return _answer(problem("BAD_VALUE", f"{where}: {first['msg']}", "/docs lists parameters"))

    app.add_exception_handler(GatewayError, ours)
    app.add_exception_handler(StorageError, ours)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, invalid)


def _bearer(request: Request) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" and value.strip() else None


def _admin(services: Services) -> Callable[[Request], Awaitable[None]]:
    expected = services.installation.config.server.admin_token

    async def check(request: Request) -> None:
        if expected is None:
            return
        given = _bearer(request) or ""
        if not hmac.compare_digest(given.encode(), expected.encode()):
            raise NoAdminToken(
                "this needs the admin token as bearer token", remedy="see server.admin_token"
            )

    return check


# ---- what operators read
# --------------------------------------------------------------------------


def _add_operator_resources(app: FastAPI, services: Services) -> None:
    admin = [Depends(_admin(services))]
    responses: dict[int | str, dict[str, Any]] = {
        401: {"model": ProblemAnswer, "description": "the admin token is missing"},
        404: {"model": ProblemAnswer, "description": "no such camera"},
        422: {"model": ProblemAnswer, "description": "a parameter does not parse"},
    }

    @app.get("/v1/cameras", dependencies=admin, responses=responses)
    async def list_cameras() -> list[CameraOverview]:
        """The enrolled cameras with the state of their feeds and what is kept of them."""
        return list((await services.overview()).cameras)

    @app.get("/v1/status", dependencies=admin, responses=responses)
    async def status() -> Overview:
        """Everything: installation, health, cameras, volumes."""
        return await services.overview()

    @app.get("/v1/cameras/{camera}/coverage", dependencies=admin, responses=responses)
    async def camera_coverage(
        camera: str,
        from_: Annotated[str, Query(alias="from", description="Start, RFC 3339 with zone.")],
        to: Annotated[str, Query(description="End, not included, RFC 3339 with zone.")],
    ) -> CoverageAnswer:
        """Spans of footage and gaps with their causes; removed cameras too."""
        wanted = TimeRange(parse_rfc3339(from_), parse_rfc3339(to))
        found = await services.camera(camera)
        return coverage_answer(found.id, await services.coverage(found, wanted))


# ---- clips
# ----------------------------------------------------------------------------------------


def _clip_headers(opened: OpenedClip, chosen: Selection) -> list[tuple[bytes, bytes]]:
    clip, view = opened.clip, opened.action == "view"
    headers = {
        "content-type": clip.content_type,
        "accept-ranges": "bytes",
        "etag": clip.etag,
        "cache-control": "no-store" if view else "private, no-cache",
        "content-disposition": f'{"inline" if view else "attachment"}; filename="{clip.filename}"',
        "x-content-type-options": "nosniff",
    }
    if chosen.status != 304:
        headers["content-length"] = str(chosen.length)
    if chosen.content_range is not None:
        headers["content-range"] = chosen.content_range
    if clip.delivered is not None:
        start, end = clip.delivered.start_ns, clip.delivered.end_ns
        headers["x-ringvault-delivered"] = f"{format_rfc3339(start)}/{format_rfc3339(end)}"
    if clip.gaps:
        headers["x-ringvault-gaps"] = gaps_header(clip.gaps)
    if clip.trial:
        headers["x-ringvault-trial"] = "1"
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]


def _add_clips(app: FastAPI, services: Services) -> None:
    responses: dict[int | str, dict[str, Any]] = {
        200: {"content": {"video/mp4": {}}, "description": "the whole clip"},
        206: {"content": {"video/mp4": {}}, "description": "the range asked for"},
        304: {"description": "you have it already (If-None-Match)"},
        416: {"description": "no byte of the range exists"},
        **_PROBLEMS,
    }

    async def mp4(
        request: Request,
        camera: str,
        from_: Annotated[str | None, Query(alias="from", description=_FROM)] = None,
        to: Annotated[str | None, Query(description=_TO)] = None,
    ) -> Response:
        """The granted footage of a camera as MP4. Resumable: Range, If-Range, strong ETag.

        The grant (``Authorization: Bearer``) says camera, range and action. Gaps inside are
        listed in X-Ringvault-Gaps and completely in the sidecar; they are no error.
        """
        asked = _asked(request, camera, from_, to)
        services.threads.acquire()
        try:
            opened = await services.clip(asked)
            chosen = select(
                size=opened.clip.size_bytes,
                etag=opened.clip.etag,
                range_header=request.headers.get("range"),
                if_range=request.headers.get("if-range"),
                if_none_match=request.headers.get("if-none-match"),
            )
            return ClipResponse(
                opened.clip,
                chosen,
                _clip_headers(opened, chosen),
                services.threads,
                send_body=request.method == "GET",
                on_broken=lambda: services.clips.forget(asked.key),
            )
        except BaseException:
            services.threads.release()
            raise

    path = "/v1/clips/{camera}.mp4"
    app.get(path, responses=responses, response_class=Response)(mp4)
    app.head(path, responses=responses, response_class=Response)(mp4)

    @app.get("/v1/clips/{camera}.json", responses=_PROBLEMS)
    async def sidecar(
        request: Request,
        camera: str,
        from_: Annotated[str | None, Query(alias="from", description=_FROM)] = None,
        to: Annotated[str | None, Query(description=_TO)] = None,
    ) -> SidecarAnswer:
        """What the clip of the same request holds: ranges, every gap with its cause, codecs."""
        asked = _asked(request, camera, from_, to)
        services.threads.acquire()
        try:
            opened = await services.clip(asked)
            return SidecarAnswer(await services.threads.run(opened.clip.sidecar))
        finally:
            services.threads.release()


_FROM = "Start of a part of the granted range, RFC 3339 with zone; with `to`."
_TO = "End of that part, not included."


def _asked(request: Request, camera: str, start: str | None, end: str | None) -> ClipRequest:
    """Raises NoGrant, ValueFormatError."""
    token = _bearer(request)
    if token is None:
        raise NoGrant(
            "a clip needs a grant", remedy="send it as `Authorization: Bearer`, as it was printed"
        )
    wanted = None
    if start is not None or end is not None:
        wanted = TimeRange(parse_rfc3339(start or ""), parse_rfc3339(end or ""))
    client = f"http:{request.client.host}" if request.client else "http"
    return ClipRequest(token, camera, wanted, client)


# ---- about the installation itself
# ----------------------------------------------------------------


def _add_own_resources(app: FastAPI, services: Services) -> None:
    @app.get("/healthz", responses={503: {"model": HealthAnswer, "description": "not recording"}})
    async def healthz(response: Response) -> HealthAnswer:
        """200 while recording as it should, else 503 with the reasons."""
        cameras = [camera for camera in (await services.cameras()).values() if camera.active]
        health = judge(await services.report(), cameras, services.clock.utc_ns())
        response.status_code = 200 if health.ok else 503
        return HealthAnswer(ok=health.ok, reasons=health.reasons, warnings=health.warnings)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        cameras = [camera for camera in (await services.cameras()).values() if camera.active]
        report = await services.report()
        health = judge(report, cameras, services.clock.utc_ns())
        body, content_type = render_metrics(report, health.ok, services.counters())
        return Response(body, media_type=content_type)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(docs.render(app.openapi()))
