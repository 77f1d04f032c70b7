"""Goal: a clip plays in the browser an officer has, straight from the API, seekable, to its end."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from tests.e2e.node import Node, moment

CHROMIUM = Path("/usr/bin/chromium")
SECONDS = 3.0
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
PLAY = """
async (url) => {
  const video = document.createElement("video");
  video.muted = true;
  video.src = url;
  document.body.append(video);
  const happens = (name) => new Promise((done, failed) => {
    video.addEventListener(name, done, {once: true});
    video.addEventListener("error", () => failed(video.error.message), {once: true});
  });
  await happens("loadeddata");
  const seen = {width: video.videoWidth, height: video.videoHeight, duration: video.duration};
  video.currentTime = video.duration / 2;
  await happens("seeked");
  video.currentTime = 0;
  await happens("seeked");
  const ended = happens("ended");
  video.playbackRate = 2;
  await video.play();
  await ended;
  const quality = video.getVideoPlaybackQuality();
  return {...seen, frames: quality.totalVideoFrames, corrupted: quality.corruptedVideoFrames};
}
"""


def test_chromium_plays_a_clip_to_its_end(node: Node) -> None:
    if not CHROMIUM.exists():
        pytest.fail("no Chromium: apt-get install chromium")
    start = moment()
    time.sleep(SECONDS + 2.0)
    token = node.grant(start, start + timedelta(seconds=SECONDS), "gate-0", action="view")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        try:
            page = browser.new_page(extra_http_headers={"Authorization": f"Bearer {token}"})
            page.goto(f"{node.address}/docs")
            seen = page.evaluate(PLAY, f"{node.address}/v1/clips/gate-0.mp4")
        finally:
            browser.close()
    assert (seen["width"], seen["height"]) == (768, 432)
    assert abs(seen["duration"] - SECONDS) < 0.1
    assert seen["frames"] >= SECONDS * 12.5 - 2, "frames shown while it played to its end"
    assert seen["corrupted"] == 0
