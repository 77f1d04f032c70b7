"""Goal: enrolment is decided in days, by the worked example of docs/design/capacity.md."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.capacity import (
    SECONDS_PER_DAY,
    Demand,
    VolumeSpace,
    plan,
    require_admitted,
    usable_bytes,
)
from storage.errors import CapacityError

PAGE = (Path(__file__).resolve().parents[2] / "docs/design/capacity.md").read_text()
SLOT = 256 << 20


def test_the_worked_example_of_the_page() -> None:
    volumes = [VolumeSpace(slot_count=67_055, slot_size_bytes=SLOT)] * 48
    usable = usable_bytes(volumes, workers=4, lanes=2, classes=1)
    demand = Demand("R30", 30, 500 * 4_096_000 / 8, 500)
    found = plan(usable, [demand])
    assert found.admitted
    numbers = re.search(r"usable (\d+) bytes, ([\d.]+) days held, ([\d.]+) needed", PAGE)
    assert numbers is not None
    assert int(numbers[1]) == usable
    assert f"{found.days_held:.1f}" == numbers[2]
    assert f"{found.days_needed:.1f}" == numbers[3]


def test_a_refusal_carries_its_numbers() -> None:
    usable = usable_bytes([VolumeSpace(400, SLOT)], workers=1, lanes=2, classes=1)
    found = plan(usable, [Demand("R30", 30, 512_000.0, 1)])
    assert not found.admitted
    with pytest.raises(CapacityError) as caught:
        require_admitted(found)
    assert caught.value.unit == "days"
    assert caught.value.needed == 32.0
    assert caught.value.available == pytest.approx(found.days_held)
    assert "1 cameras at 4.2 Mbit/s" in str(caught.value)
    assert plan(usable + found.missing_bytes, [Demand("R30", 30, 512_000.0, 1)]).admitted


def test_classes_share_the_ring_in_proportion_to_their_rates() -> None:
    demands = [Demand("R30", 30, 3e6, 3), Demand("R90-AT", 90, 1e6, 1)]
    found = plan(10**12, demands)
    assert found.days_needed == pytest.approx((30 * 3 + 90 * 1) / 4 + 2)
    assert found.cameras == 4


def test_trial_needs_nothing_and_an_empty_city_holds_for_ever() -> None:
    assert plan(1000, [Demand("TRIAL", 0, 1e9, 9)]).admitted
    assert plan(0, []).days_held == math.inf


def test_small_streams_pay_for_their_headers() -> None:
    thin = Demand("R30", 30, 125_000.0, 1)
    assert 0.09 < thin.stored_bytes_per_s / thin.bytes_per_s - 1 < 0.11


@given(st.floats(1, 1e9), st.integers(0, 90), st.integers(10**9, 10**15))
def test_what_is_admitted_is_kept_for_min_days(rate: float, days: int, usable: int) -> None:
    found = plan(usable, [Demand("X", days, rate, 1)])
    if found.admitted:
        require_admitted(found)
        assert usable >= rate * days * SECONDS_PER_DAY
    else:
        assert found.missing_bytes > 0


@given(st.integers(0, 100), st.integers(1, 8), st.integers(1, 4), st.integers(0, 3))
def test_open_and_turning_slots_do_not_count(
    slots: int, workers: int, lanes: int, classes: int
) -> None:
    usable = usable_bytes([VolumeSpace(slots, SLOT)], workers=workers, lanes=lanes, classes=classes)
    turning = workers * lanes * max(1, classes) * 2
    assert usable <= max(0, slots - turning) * SLOT
    assert usable == 0 or slots > turning
