"""One set of simulated cameras and one serving node for all end-to-end tests that harm nobody."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node import Node, Simulator

CAMERAS = 6


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    """Cameras that play the footage that ships: even ones H.264, odd ones H.265."""
    log = tmp_path_factory.mktemp("simulator") / "log"
    simulated = Simulator(log, CAMERAS)
    yield simulated
    if simulated.process.poll() is None:
        simulated.stop()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory, simulator: Simulator) -> Iterator[Node]:
    """Two workers recording gate-0 to gate-3."""
    made = Node(tmp_path_factory.mktemp("node") / "city")
    names = [f"gate-{number}" for number in range(4)]
    for name, url in zip(names, simulator.urls, strict=False):
        made.add(name, url)
    made.serve("--workers", 2)
    try:
        made.until_recording(*names)
        yield made
    finally:
        made.stop()


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    return tmp_path / "clip.mp4"
