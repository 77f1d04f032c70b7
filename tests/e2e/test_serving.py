"""Goal: cameras in, exact clips out, over real sockets and processes; nobody disturbs another."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from gateway.cli.download import download
from gateway.demo import count_frames
from tests.e2e.node import Node, Simulator, here, moment, rfc3339, ringvault, succeed, wait_for

SECONDS = 4.0


class Granted(NamedTuple):
    """Leave to copy gate-0 and gate-1 for some seconds that are recorded and settled."""

    token: str
    start: datetime
    end: datetime

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}


@pytest.fixture(scope="module")
def granted(node: Node) -> Granted:
    start = moment()
    time.sleep(SECONDS + 2.0)
    end = start + timedelta(seconds=SECONDS)
    return Granted(node.grant(start, end, "gate-0", "gate-1"), start, end)


@pytest.fixture(scope="module")
def api(node: Node) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.address, timeout=30) as client:
        yield client


@pytest.mark.parametrize(("camera", "codec"), [("gate-0", "h264"), ("gate-1", "h265")])
def test_a_clip_is_exact_whole_and_decodes(
    api: httpx.Client, granted: Granted, clip_file: Path, camera: str, codec: str
) -> None:
    answer = api.get(f"/v1/clips/{camera}.mp4", headers=granted.headers)
    assert answer.status_code == 200
    assert len(answer.content) == int(answer.headers["content-length"])
    assert answer.headers["x-ringvault-trial"] == "1"
    assert "x-ringvault-gaps" not in answer.headers
    assert answer.headers["content-disposition"].startswith('attachment; filename="TRIAL-gate-')
    clip_file.write_bytes(answer.content)
    sidecar = api.get(f"/v1/clips/{camera}.json", headers=granted.headers).json()
    assert sidecar["etag"] == answer.headers["etag"] and sidecar["gaps"] == []
    assert [c["codec"] for c in sidecar["codecs"]] == [codec]
    wanted = {"start": rfc3339(granted.start), "end": rfc3339(granted.end)}
    assert sidecar["requested"] == sidecar["delivered"] == wanted
    # The footage that ships has 12.5 frames a second, for ever.
    assert sidecar["frames"]["presented"] in (50, 51)
    assert count_frames(clip_file) == sidecar["frames"]["presented"]


def test_disk_and_http_give_the_same_bytes(
    node: Node, api: httpx.Client, granted: Granted, tmp_path: Path
) -> None:
    (tmp_path / "grant").write_text(granted.token)
    words = ("clip", "--grant", tmp_path / "grant", "--camera", "gate-0")
    succeed(*words, "--out", tmp_path / "disk.mp4", "--config", node.config)
    succeed(*words, "--out", tmp_path / "http.mp4", "--url", node.address)
    plain = api.get("/v1/clips/gate-0.mp4", headers=granted.headers).content
    assert (tmp_path / "disk.mp4").read_bytes() == plain == (tmp_path / "http.mp4").read_bytes()
    assert (tmp_path / "disk.mp4.json").read_text() == (tmp_path / "http.mp4.json").read_text()


def test_ranges_preconditions_and_head(api: httpx.Client, granted: Granted) -> None:
    path, headers = "/v1/clips/gate-0.mp4", granted.headers
    whole = api.get(path, headers=headers)
    size, tag = len(whole.content), whole.headers["etag"]
    head = api.head(path, headers=headers)
    assert head.content == b"" and head.headers["content-length"] == str(size)
    assert head.headers["etag"] == tag and head.headers["accept-ranges"] == "bytes"

    def ask(**more: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return api.get(path, headers={**headers, **named})

    part = ask(range="bytes=100-299")
    assert part.status_code == 206 and part.content == whole.content[100:300]
    assert part.headers["content-range"] == f"bytes 100-299/{size}"
    assert ask(range="bytes=-50").content == whole.content[-50:]
    assert ask(range=f"bytes={size - 1}-").content == whole.content[-1:]
    past = ask(range=f"bytes={size}-")
    assert past.status_code == 416 and past.headers["content-range"] == f"bytes */{size}"
    assert ask(range="bytes=0-9", if_range=tag).status_code == 206
    assert ask(range="bytes=0-9", if_range='"other"').content == whole.content
    fresh = ask(if_none_match=tag)
    assert fresh.status_code == 304 and fresh.content == b"" and fresh.headers["etag"] == tag


def test_a_part_of_the_granted_range(api: httpx.Client, granted: Granted) -> None:
    part = {"from": rfc3339(granted.start + timedelta(seconds=1)), "to": rfc3339(granted.end)}
    found = api.get("/v1/clips/gate-0.json", headers=granted.headers, params=part).json()
    assert found["requested"] == {"start": part["from"], "end": part["to"]}
    wider = {**part, "from": rfc3339(granted.start - timedelta(milliseconds=1))}
    refused = api.get("/v1/clips/gate-0.mp4", headers=granted.headers, params=wider)
    assert (refused.status_code, refused.json()["code"]) == (403, "OUT_OF_SCOPE")


class Flaky:
    """A proxy that cuts every connection after so many bytes of answer."""

    def __init__(self, target: str, cut_bytes: int) -> None:
        host, port = target.removeprefix("http://").split(":")
        self._target = (host, int(port))
        self._cut_bytes = cut_bytes
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.cuts = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client, socket.create_connection(self._target) as server:
                server.sendall(client.recv(65_536))
                sent = 0
                while block := server.recv(min(65_536, self._cut_bytes - sent)):
                    client.sendall(block)
                    sent += len(block)
                    if sent >= self._cut_bytes:
                        self.cuts += 1
                        break

    def close(self) -> None:
        self._listener.close()


def test_a_download_goes_on_where_it_broke_off(
    node: Node, api: httpx.Client, granted: Granted, clip_file: Path
) -> None:
    whole = api.get("/v1/clips/gate-0.mp4", headers=granted.headers).content
    flaky = Flaky(node.address, len(whole) // 4)
    try:
        url = f"{flaky.address}/v1/clips/gate-0.mp4"
        done = download(url, granted.token, clip_file, retries=1)
    finally:
        flaky.close()
    assert clip_file.read_bytes() == whole
    assert flaky.cuts >= 4 and done.resumed >= 4
    assert list(clip_file.parent.iterdir()) == [clip_file], "nothing is left beside it"


def test_a_client_that_leaves_frees_its_place(
    node: Node, api: httpx.Client, granted: Granted
) -> None:
    host, port = node.address.removeprefix("http://").split(":")
    request = (
        f"GET /v1/clips/gate-0.mp4 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {granted.token}"
    )
    for _ in range(30):
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(request.encode() + b"\r\n\r\n")
            client.recv(1000)
    wait_for(
        "all places to be free",
        lambda: "ringvault_api_clips_reading 0.0" in api.get("/metrics").text,
        limit_s=10,
    )
    assert api.get("/v1/clips/gate-0.mp4", headers=granted.headers).status_code == 200


def test_without_leave_there_is_no_footage(node: Node, api: httpx.Client, granted: Granted) -> None:
    path = "/v1/clips/gate-0.mp4"
    flipped = granted.token[:-6] + ("A" if granted.token[-6] != "A" else "B") + granted.token[-5:]
    cases = {
        "NO_GRANT": (401, path, {}),
        "MALFORMED": (401, path, {"Authorization": "Bearer a.b.c"}),
        "BAD_SIGNATURE": (401, path, {"Authorization": f"Bearer {flipped}"}),
        "OUT_OF_SCOPE": (403, "/v1/clips/gate-2.mp4", granted.headers),
    }
    for code, (status, where, headers) in cases.items():
        for suffix in (where, where.replace(".mp4", ".json")):
            answer = api.get(suffix, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert set(answer.json()) == {"code", "message", "article", "remedy"}
    assert "bearer" in api.get(path).headers["www-authenticate"].lower()
    unknown = api.get("/v1/clips/nobody.mp4", headers=granted.headers)
    assert unknown.status_code == 403, "whether a camera exists is not told without leave"
    codes = [entry["code"] for entry in node.audit() if entry["type"] == "clip_refused"]
    assert {"MALFORMED", "BAD_SIGNATURE", "OUT_OF_SCOPE"} <= set(codes)


def test_every_use_of_a_grant_is_an_entry_before_a_byte_leaves(
    node: Node, api: httpx.Client, granted: Granted
) -> None:
    def uses() -> list[dict[str, object]]:
        return [entry for entry in node.audit() if entry["type"] == "clip_opened"]

    before = len(uses())
    for count in (1, 2, 3):
        headers = {**granted.headers, "Range": "bytes=0-0"}
        assert api.get("/v1/clips/gate-0.mp4", headers=headers).status_code == 206
        found = uses()
        assert len(found) == before + count
    assert found[-1]["client"] == "http:127.0.0.1" and found[-1]["document_no"] == "2026-17"


def test_a_grant_to_view_is_shown_and_not_kept(
    node: Node, api: httpx.Client, granted: Granted
) -> None:
    token = node.grant(granted.start, granted.end, "gate-0", action="view")
    answer = api.get("/v1/clips/gate-0.mp4", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].startswith("inline")
    assert answer.headers["cache-control"] == "no-store"


def test_what_operators_read(node: Node, api: httpx.Client) -> None:
    assert api.get("/healthz").status_code == 200
    cameras = {c["id"]: c for c in api.get("/v1/cameras").json()}
    assert {"gate-0", "gate-1", "gate-2", "gate-3"} <= set(cameras)
    shown = cameras["gate-0"]
    assert shown["state"] == "playing" and shown["codec"] == "H.264"
    assert (shown["width"], shown["height"]) == (768, 432)
    assert 11 < shown["fps"] < 14 and shown["bytes_kept"] > 0 and shown["bytes_exact"]
    assert {c["worker"] for c in cameras.values()} <= {0, 1, None}
    status = api.get("/v1/status").json()
    assert status["trial"] and status["health"]["ok"] and len(status["volumes"]) == 1
    metrics = api.get("/metrics").text
    for line in ("ringvault_healthy 1.0", 'ringvault_camera_recording{camera="gate-0"} 1.0'):
        assert line in metrics
    page = api.get("/docs")
    assert page.status_code == 200 and "/v1/clips/{camera}.mp4" in page.text
    missing = api.get("/v1/nothing")
    assert (missing.status_code, missing.json()["code"]) == (404, "NOT_FOUND")
    assert api.post("/v1/cameras").json()["code"] == "METHOD_NOT_ALLOWED"


def test_coverage_tells_what_is_there_and_what_is_not(api: httpx.Client, granted: Granted) -> None:
    early = granted.start - timedelta(hours=1)
    path = "/v1/cameras/gate-0/coverage"
    found = api.get(path, params={"from": rfc3339(early), "to": rfc3339(granted.end)}).json()
    assert found["spans"][-1]["end"] == rfc3339(granted.end)
    assert found["gaps"][0]["cause"] == "unknown" and found["gaps"][0]["start"] == rfc3339(early)
    assert found["expected_seconds"] == 3600 + SECONDS
    assert SECONDS <= found["stored_seconds"] < 1000
    wrong = api.get(path, params={"from": "yesterday", "to": rfc3339(granted.end)})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "BAD_VALUE")
    assert api.get(path).json()["code"] == "BAD_VALUE"
    assert api.get("/v1/cameras/nobody/coverage", params={"from": rfc3339(early),
                   "to": rfc3339(granted.end)}).status_code == 404  # fmt: skip


def test_a_camera_comes_and_goes_and_the_others_notice_nothing(
    node: Node, simulator: Simulator, granted: Granted
) -> None:
    before = {c["id"]: c for c in node.status()["cameras"]}
    node.add("late-4", simulator.urls[4])
    node.until_recording("late-4")
    succeed("camera", "remove", "late-4", "--config", node.config)
    wait_for(
        "late-4 to be left alone",
        lambda: "late-4" not in {c["id"] for c in node.status()["cameras"]},
    )
    node.until_recording("gate-0", "gate-1", "gate-2", "gate-3")
    after = {c["id"]: c for c in node.status()["cameras"]}
    for name in ("gate-0", "gate-1", "gate-2", "gate-3"):
        assert after[name]["reconnects"] == before[name]["reconnects"] == 0
        assert after[name]["gaps_today"] == before[name]["gaps_today"]
    kept = json.loads(succeed("camera", "show", "late-4", "--json", "--config", node.config))
    assert kept["removed"] is not None
    end = datetime.fromisoformat(kept["removed"][:23] + "+00:00")
    token = node.grant(end - timedelta(seconds=1), end, "late-4")
    answer = httpx.get(
        f"{node.address}/v1/clips/late-4.json", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.json()["frames"]["presented"] > 0, "what was recorded stays and can be had"


def test_a_bad_camera_is_named_and_harms_nobody(node: Node) -> None:
    with socket.create_server(("127.0.0.1", 0)) as port:
        nobody = port.getsockname()[1]
    node.add("broken", f"rtsp://admin:hunter2@127.0.0.1:{nobody}/s")
    wait_for("the failure to show", lambda: node.camera("broken")["last_error"])
    found = node.status()
    error = node.camera("broken")["last_error"]
    assert error["code"] == "CONNECT_FAILED" and error["cause"] == "camera_offline"
    assert found["health"]["ok"], "one camera that is away is a warning"
    assert "broken" in " ".join(found["health"]["warnings"])
    assert here("status", "--config", node.config).returncode == 3
    node.until_recording("gate-0", "gate-1", "gate-2", "gate-3")
    assert node.serving is not None
    assert "hunter2" not in node.serving.words() + json.dumps(found)
    succeed("camera", "remove", "broken", "--config", node.config)


def test_a_second_serve_is_refused_and_told_who_runs(node: Node) -> None:
    assert node.serving is not None
    done = ringvault("serve", "--config", node.config)
    assert done.returncode == 1
    last = [line for line in done.stderr.splitlines() if line.startswith("VOLUME_BUSY: ")]
    assert len(last) == 1 and f"pid {node.serving.pid}" in last[0]
    node.until_recording("gate-0")
