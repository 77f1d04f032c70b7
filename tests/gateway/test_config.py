"""Goal: a wrong configuration is refused with file, key and remedy; a right one is read exactly."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from gateway.config import Config, ConfigError, load_config, render_config

INSTALLATION = uuid.UUID("396140ba-72ba-49ed-8bff-ed7e1158efbf")


def written(tmp_path: Path, *, trial: bool = False, replace: tuple[str, str] = ("", "")) -> Path:
    text = render_config(
        uuid=INSTALLATION,
        name="Harbour",
        trial=trial,
        volumes=[(1, Path("volumes/a")), (2, Path("/mnt/b"))],
    )
    old, new = replace
    assert old in text, f"the template has no {old!r}"
    file = tmp_path / "ringvault.toml"
    file.write_text(text.replace(old, new, 1) if old else text + new, encoding="utf-8")
    return file


def test_what_init_writes_is_what_load_reads(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, trial=True))
    assert config.installation.uuid == INSTALLATION
    assert config.installation.trial
    assert config.retention.default == "TRIAL"
    assert config.storage.queue_bytes_max == 512 << 20
    assert config.ingest.rcvlowat_bytes_max == 128 << 10


def test_the_template_states_the_defaults(tmp_path: Path) -> None:
    """A key left out means what the template shows for it."""
    full = load_config(written(tmp_path))
    bare = tmp_path / "bare.toml"
    bare.write_text(
        f'[installation]\nuuid = "{INSTALLATION}"\nname = "Harbour"\ntrial = false\n'
        '[[volume]]\nnumber = 1\npath = "volumes/a"\n[[volume]]\nnumber = 2\npath = "/mnt/b"\n'
    )
    assert load_config(bare) == full


def test_relative_volumes_lie_beside_the_file_wherever_we_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path)
    monkeypatch.chdir("/")
    config = load_config(file)
    assert [v.path for v in config.volume] == [tmp_path / "volumes/a", Path("/mnt/b")]


@pytest.mark.parametrize("name", ['a "quoted" \\ name', "常州市", "tab\tand\x01control"])
def test_any_name_survives_the_template(tmp_path: Path, name: str) -> None:
    file = tmp_path / "ringvault.toml"
    volumes = [(1, Path("v"))]
    text = render_config(uuid=INSTALLATION, name=name, trial=False, volumes=volumes)
    file.write_text(text, encoding="utf-8")
    assert load_config(file).installation.name == name


WRONG = {
    "unknown key": (("commit_interval_ms = 1000", "comit_interval_ms = 1000"),
                    "storage.comit_interval_ms", "unknown key"),
    "unknown table": (("", "[storag]\nlanes = 2\n"), "storag", "unknown key"),
    "text for a number": (("workers = 1", 'workers = "1"'), "server.workers", "integer"),
    "number for text": (('http_host = "127.0.0.1"', "http_host = 1"), "server.http_host", "string"),
    "out of bounds": (("workers = 1", "workers = 0"), "server.workers", "greater than"),
    "unknown retention": (('default = "R30"', 'default = "R31"'), "retention.default", "'R90-AT'"),
    "unreadable size": (('"512MiB"', '"lots"'), "storage.queue_bytes_max", "500GiB"),
    "missing key": (('name = "Harbour"\n', ""), "installation.name", "missing"),
    "bad uuid": ((str(INSTALLATION), "nonsense"), "installation.uuid", "UUID"),
    "two volumes of one number": (("number = 2", "number = 1"), "volume", "same number"),
    "open to the network without a token":
        (('http_host = "127.0.0.1"', 'http_host = "0.0.0.0"'), "server", "admin_token"),
    "trial class on a production node": (('default = "R30"', 'default = "TRIAL"'), "", "--trial"),
    "retries the wrong way round":
        (("retry_first_s = 0.2", "retry_first_s = 31"), "ingest", "retry_first_s"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_names_key_and_remedy(tmp_path: Path, case: str) -> None:
    replace, key, said = WRONG[case]
    file = written(tmp_path, replace=replace)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.key == key
    assert str(file) in str(caught.value)
    assert said in str(caught.value)
    assert caught.value.remedy
    assert caught.value.code == "CONFIG"


def test_a_production_class_on_a_trial_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path, trial=True, replace=('default = "TRIAL"', 'default = "R30"'))
    with pytest.raises(ConfigError, match="--trial"):
        load_config(file)


def test_the_admin_token_never_shows_in_an_error(tmp_path: Path) -> None:
    file = written(tmp_path, replace=("workers = 1", 'workers = 1\nadmin_token = "hunter2"'))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert caught.value.key == "server.admin_token"
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), (b"[installation\n", "not valid TOML"), (b"a = '\xff'\n", "UTF-8")],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "ringvault.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(file)
    assert caught.value.file == file
    assert caught.value.remedy


def test_the_reference_page_lists_every_key() -> None:
    """docs/ref/config.md is the reference: a key that is not on it does not exist for people."""
    page = (Path(__file__).resolve().parents[2] / "docs/ref/config.md").read_text("utf-8")
    missing = []
    for table, info in Config.model_fields.items():
        kind = info.annotation
        inner = getattr(kind, "model_fields", None)
        if inner is None:
            (inner,) = [a.model_fields for a in kind.__args__ if hasattr(a, "model_fields")]
        missing += [f"{table}.{key}" for key in inner if f"`{key}`" not in page]
    assert not missing
