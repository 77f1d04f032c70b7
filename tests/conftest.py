"""Fixtures every test shares: where the media files are, and uvloop under every async test.

Hypothesis runs without deadlines: a loaded machine is not a failure (speed lives in ``bench/``).
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import hypothesis
import pytest
import uvloop

REPOSITORY = Path(__file__).resolve().parent.parent

hypothesis.settings.register_profile("ringvault", deadline=None)
hypothesis.settings.load_profile("ringvault")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], object]]:
    """Async tests run on the loop the product runs on."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="session")
def media_dir() -> Path:
    """The folder of test footage: ``RINGVAULT_MEDIA``, else the collection beside the checkout,
    else the copy in ``tests/data/media``.

    A missing folder fails the test: a suite that skips its real input proves nothing.
    """
    named = os.environ.get("RINGVAULT_MEDIA")
    beside = REPOSITORY.parent / "shared" / "media"
    shipped = REPOSITORY / "tests" / "data" / "media"
    path = Path(named) if named else beside if beside.is_dir() else shipped
    if not (path / "README.md").is_file():
        pytest.fail(f"no test footage at {path}: set RINGVAULT_MEDIA to the media folder")
    return path
