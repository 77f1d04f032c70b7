"""Goal: every command says what happened, in one line, with an exit status a script can use."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path

import pytest

from storage.audit.log import AuditLog
from tests.e2e.node import here, moment, rfc3339, ringvault, succeed

PLACE = ("--place-category", 8, "--place-type", "road")
URL = "rtsp://admin:hunter2@127.0.0.1:1/s"
PEOPLE = ("--official", "Li Lei:C-1", "--official", "Han Meimei:C-2")


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a trial installation with one camera."""
    root = tmp_path_factory.mktemp("cli") / "node"
    succeed("init", root, "--volume", f"{root / 'volume'}:64MiB", "--trial")
    config = root / "ringvault.toml"
    succeed("camera", "add", "gate-1", "--url", URL, *PLACE, "--config", config)
    return config


def events(config: Path) -> list[dict[str, object]]:
    with AuditLog.open(config.parent / "audit") as log:
        return [json.loads(entry.data) for entry in log.entries()]


def refused(code: str, *arguments: object, status: int = 1, stdin: str | None = None) -> str:
    """Run a command that must fail with ``code`` and no traceback; its words."""
    done = here(*arguments, stdin=stdin)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith(f"{code}: "), done.stderr
    assert "Traceback" not in done.stderr and "hunter2" not in done.stderr
    return done.stderr


# ---- init ---------------------------------------------------------------------------------------


def test_init_makes_what_it_says(tmp_path: Path) -> None:
    root = tmp_path / "node"
    volumes = [tmp_path / "disk1", root / "inside"]
    options = [word for v in volumes for word in ("--volume", f"{v}:20MB")]
    said = json.loads(succeed("init", root, *options, "--name", "Harbour", "--json"))
    assert [v["path"] for v in said["volumes"]] == [str(v) for v in volumes]
    written = tomllib.loads((root / "ringvault.toml").read_text())
    assert written["installation"]["uuid"] == said["installation_uuid"]
    assert [v["path"] for v in written["volume"]] == [str(volumes[0]), "inside"]
    assert not said["trial"]
    for name in ("keys/grant.key", "db/ringvault.sqlite3", "ringvault.toml"):
        assert stat.S_IMODE((root / name).stat().st_mode) == 0o600, name
    for volume in volumes:
        blocks = (volume / "slots").stat().st_blocks * 512
        assert 18e6 < blocks <= 20e6, "the space is allocated now"
    refused("INIT_REFUSED", "init", root, "--volume", f"{tmp_path / 'disk2'}:20MB")


@pytest.mark.parametrize(
    ("size", "code", "said"),
    [
        ("1000TB", "CAPACITY", "does not fit"),
        ("2MB", "CAPACITY", "at least 4 slots"),
        ("lots", "BAD_VALUE", "500GiB"),
    ],
)
def test_an_init_that_fails_leaves_nothing(tmp_path: Path, size: str, code: str, said: str) -> None:
    good = tmp_path / "good"
    options = ("--volume", f"{good}:20MB", "--volume", f"{tmp_path / 'bad'}:{size}")
    assert said in refused(code, "init", tmp_path / "node", *options)
    assert list(tmp_path.iterdir()) == []


def test_init_touches_no_volume_with_something_in_it(tmp_path: Path) -> None:
    precious = tmp_path / "disk" / "precious"
    precious.parent.mkdir()
    precious.write_text("x")
    refused("VOLUME_NOT_EMPTY", "init", tmp_path / "node", "--volume", f"{precious.parent}:20MB")
    assert precious.read_text() == "x" and not (tmp_path / "node").exists()


# ---- cameras ------------------------------------------------------------------------------------


def test_a_camera_comes_and_goes(trial: Path) -> None:
    config = ("--config", trial)
    before = len(events(trial))
    succeed("camera", "add", "square-2", "--url", URL, *PLACE, *config)
    refused("CAMERA_EXISTS", "camera", "add", "square-2", "--url", URL, *PLACE, *config)
    listed = json.loads(succeed("camera", "list", "--json", *config))
    assert {c["id"] for c in listed} == {"gate-1", "square-2"}
    assert "hunter2" not in json.dumps(listed)
    shown = json.loads(succeed("camera", "show", "square-2", "--json", *config))
    assert shown["url"] == "rtsp://***@127.0.0.1:1/s" and shown["retention"] == "TRIAL"
    assert "hunter2" not in succeed("camera", "list", *config)
    succeed("camera", "remove", "square-2", *config)
    refused("CAMERA_UNKNOWN", "camera", "remove", "square-2", *config)
    refused("CAMERA_UNKNOWN", "camera", "show", "nobody", *config)
    gone = json.loads(succeed("camera", "list", "--removed", "--json", *config))
    assert {c["id"]: c["removed"] is None for c in gone} == {"gate-1": True, "square-2": False}
    entries = events(trial)[before:]
    assert [e["type"] for e in entries] == ["camera_added", "camera_removed"]
    assert "hunter2" not in json.dumps(entries)


def test_a_private_place_is_refused_and_entered(trial: Path) -> None:
    place = ("--place-category", 10, "--place-type", "hotel guest room")
    said = refused(
        "PRIVATE_PLACE", "camera", "add", "room-7", "--url", URL, *place, "--config", trial
    )
    assert "art. 9" in said
    last = events(trial)[-1]
    assert (last["type"], last["camera_id"], last["code"]) == (
        "camera_refused", "room-7", "PRIVATE_PLACE",
    )  # fmt: skip


def test_an_import_is_taken_whole_or_not_at_all(trial: Path, tmp_path: Path) -> None:
    good = "id,url,place_category,place_type\n" + "".join(
        f"bulk-{n},rtsp://u:hunter2@h/{n},8,road\n" for n in range(50)
    )
    bad = good + "bulk-99,rtsp://h/,8,toilet\ngate-1,rtsp://h/,8,road\nx,ftp://h/,8,road\n"
    file = tmp_path / "cameras.csv"
    file.write_text(bad)
    config = ("--config", trial)
    said = refused("IMPORT_REJECTED", "camera", "import", file, *config)
    for line, code in ((52, "PRIVATE_PLACE"), (53, "CAMERA_EXISTS"), (54, "BAD_CAMERA")):
        assert f"line {line} " in said and code in said
    assert len(json.loads(succeed("camera", "list", "--json", *config))) == 1
    assert "50 cameras" in succeed("camera", "import", "-", *config, stdin=good)
    assert len(json.loads(succeed("camera", "list", "--json", *config))) == 51


def test_production_asks_whether_the_ring_lasts(tmp_path: Path) -> None:
    root = tmp_path / "node"
    succeed("init", root, "--volume", f"{root / 'volume'}:64MiB")
    config = root / "ringvault.toml"
    add = ("camera", "add", "gate-1", "--url", URL, *PLACE, "--config", config)
    said = refused("CAPACITY", *add)
    assert "days" in said and "Mbit/s" in said and "21(7)" in said
    assert json.loads(succeed("camera", "list", "--json", "--config", config)) == []
    refused("BAD_CAMERA", *add[:3], "--url", URL, *PLACE, "--retention", "TRIAL", *add[-2:])


# ---- grants -------------------------------------------------------------------------------------


def grant(config: Path, *more: object, camera: str = "gate-1") -> tuple[object, ...]:
    times = ("--from", rfc3339(moment(-60)), "--to", rfc3339(moment()))
    return ("grant", "create", "--camera", camera, *times, "--action", "copy",
            "--config", config, *more)  # fmt: skip


def test_a_grant_stands_alone_on_standard_output(trial: Path) -> None:
    token = succeed(*grant(trial, "--document", "17", *PEOPLE))
    assert token.count(".") == 2 and token.strip() == token.rstrip("\n")
    last = events(trial)[-1]
    assert (last["type"], last["document_no"]) == ("grant_issued", "17")
    assert last["officials"] == [
        {"card": "C-1", "name": "Li Lei"}, {"card": "C-2", "name": "Han Meimei"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "code"),
    [
        (PEOPLE, "NO_DOCUMENT"),
        (("--document", "17"), "ONE_PERSON_ONLY"),
        (("--document", "17", *PEOPLE[:2], "--official", "LI LEI:C-9"), "ONE_PERSON_ONLY"),
        (("--document", "17", *PEOPLE[:2], "--official", "Han"), "DOC_INCOMPLETE"),
        (("--document", "17", *PEOPLE, "--camera", "nobody"), "OUT_OF_SCOPE"),
        (("--document", "17", *PEOPLE, "--expires", "30d"), "OUT_OF_SCOPE"),
    ],
)
def test_an_unlawful_request_gets_no_grant(
    trial: Path, more: tuple[object, ...], code: str
) -> None:
    assert "art. 2" in refused(code, *grant(trial, *more))
    last = events(trial)[-1]
    assert (last["type"], last["code"]) == ("grant_refused", code)


def test_a_time_without_zone_is_no_time(trial: Path) -> None:
    words = ["2026-05-04T05:00:00" if "T" in str(w) else w for w in grant(trial)]
    assert "+08:00" in refused("BAD_VALUE", *words, "--document", "17", *PEOPLE)


def test_footage_that_is_not_there_is_one_gap_and_no_error(trial: Path, tmp_path: Path) -> None:
    (tmp_path / "g").write_text(succeed(*grant(trial, "--document", "17", *PEOPLE)))
    target = tmp_path / "clip.mp4"
    options = ("--grant", tmp_path / "g", "--config", trial)
    succeed("clip", *options, "--out", target)
    sidecar = json.loads((tmp_path / "clip.mp4.json").read_text())
    assert [gap["cause"] for gap in sidecar["gaps"]] == ["unknown"]
    assert sidecar["trial"] is True
    refused("CLIP_FILE", "clip", *options, "--out", target)
    refused("CAMERA_UNKNOWN", "clip", *options, "--out", tmp_path / "x", "--camera", "other")


def test_a_changed_grant_is_refused_and_entered(trial: Path, tmp_path: Path) -> None:
    token = succeed(*grant(trial, "--document", "17", *PEOPLE)).strip()
    flipped = token[:-5] + ("A" if token[-5] != "A" else "B") + token[-4:]
    (tmp_path / "g").write_text(flipped)
    options = ("--grant", tmp_path / "g", "--out", tmp_path / "x.mp4", "--config", trial)
    refused("BAD_SIGNATURE", "clip", *options)
    assert events(trial)[-1]["type"] == "clip_refused"
    (tmp_path / "g").write_text("hello\n")
    refused("MALFORMED", "clip", *options)
    assert not (tmp_path / "x.mp4").exists()


def test_a_grant_to_view_lets_no_file_out(trial: Path, tmp_path: Path) -> None:
    words = ["view" if w == "copy" else w for w in grant(trial, "--document", "17", *PEOPLE)]
    (tmp_path / "g").write_text(succeed(*words))
    options = ("--grant", tmp_path / "g", "--out", tmp_path / "x.mp4", "--config", trial)
    refused("OUT_OF_SCOPE", "clip", *options)
    assert not (tmp_path / "x.mp4").exists()


# ---- the rest -----------------------------------------------------------------------------------


def test_status_without_serve_says_so(trial: Path) -> None:
    done = here("status", "--json", "--config", trial)
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert not found["serving"] and found["trial"]
    assert found["health"]["reasons"] == ["`ringvault serve` does not run"]
    assert "hunter2" not in done.stdout
    assert "TRIAL" in here("status", "--config", trial).stdout


def test_a_missing_or_wrong_configuration(tmp_path: Path, trial: Path) -> None:
    said = refused("CONFIG", "camera", "list", "--config", tmp_path / "none.toml")
    assert "no such file" in said and "ringvault init" in said
    broken = tmp_path / "broken.toml"
    broken.write_text(trial.read_text().replace("lanes = 2", "lane = 2"))
    assert "storage.lane: unknown key" in refused("CONFIG", "serve", "--config", broken)


def test_errors_are_json_where_a_program_asks_for_it(tmp_path: Path) -> None:
    done = here("camera", "list", "--json", "--config", tmp_path / "none.toml")
    said = json.loads(done.stderr)
    assert done.returncode == 1 and set(said) == {"code", "message", "article", "remedy"}


def test_wrong_usage_has_its_own_status(trial: Path) -> None:
    for words in (["camera", "add", "x"], ["nonsense"], ["status", "--nonsense"]):
        done = here(*words)
        assert done.returncode == 2, words
        assert "Traceback" not in done.stderr


def test_a_volume_that_is_not_there_keeps_serve_from_starting(tmp_path: Path) -> None:
    root = tmp_path / "node"
    succeed("init", root, "--volume", f"{tmp_path / 'disk'}:20MB", "--trial", "--http-port", 0)
    config = root / "ringvault.toml"
    os.rename(tmp_path / "disk", tmp_path / "elsewhere")
    assert str(tmp_path / "disk") in _start_refused("VOLUME_MISSING", config)
    other = tmp_path / "other"
    succeed("init", other, "--volume", f"{tmp_path / 'disk'}:20MB", "--trial")
    assert str(tmp_path / "disk") in _start_refused("VOLUME_FOREIGN", config)


def _start_refused(code: str, config: Path) -> str:
    done = ringvault("serve", "--config", config)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith(f"{code}: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return lines[0]


def test_help_names_what_there_is() -> None:
    text = succeed("--help")
    for name in ("init", "serve", "camera", "status", "grant", "clip", "fsck", "index", "simulate"):
        assert name in text
    text = " ".join(succeed("camera", "add", "--help").split())
    assert "13 other places" in text and "corridor" in text


def test_as_a_process_of_its_own_it_behaves_the_same(trial: Path, tmp_path: Path) -> None:
    """The other tests call the same entry point without starting a Python each time."""
    done = ringvault("camera", "show", "gate-1", "--json", "--config", trial)
    assert done.returncode == 0 and json.loads(done.stdout)["id"] == "gate-1"
    done = ringvault("camera", "show", "nobody", "--config", trial)
    assert done.returncode == 1 and done.stderr.startswith("CAMERA_UNKNOWN: ")
    done = ringvault("camera", "add", "x")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    done = ringvault("--debug", "camera", "show", "nobody", "--config", trial)
    assert done.returncode == 1 and "Traceback" in done.stderr
