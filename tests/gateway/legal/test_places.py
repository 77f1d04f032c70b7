"""Goal: no camera in a private place, whoever asks; every other place by the vocabulary."""

from __future__ import annotations

from datetime import date

import pytest

from gateway.legal.places import CATEGORIES, PERMITTED, PROHIBITED, check_place
from gateway.legal.refusals import RULES, Refused

TODAY = date(2026, 5, 4)


@pytest.mark.parametrize("kind", PROHIBITED)
@pytest.mark.parametrize("category", CATEGORIES)
def test_a_private_place_is_refused_in_every_category(kind: str, category: int) -> None:
    with pytest.raises(Refused) as caught:
        check_place(category, kind, "order 7", TODAY)
    assert caught.value.code == "PRIVATE_PLACE"
    assert "art. 9" in caught.value.article and "art. 8" in caught.value.article


@pytest.mark.parametrize(
    "name",
    ["TOILET", " toilet ", "卫生间", "Hotel Guest Room", "hotel-guest-room", "ＴＯＩＬＥＴ"],  # noqa: RUF001
)
def test_spelling_does_not_help(name: str) -> None:
    with pytest.raises(Refused) as caught:
        check_place(8, name, None, TODAY)
    assert caught.value.code == "PRIVATE_PLACE"


def test_the_list_of_the_law_is_complete() -> None:
    named = {
        "staff_dormitory", "student_dormitory", "hotel_guest_room", "private_dining_room",
        "bathroom", "toilet", "changing_room", "fitting_room", "nursing_room", "staff_rest_room",
        "ward", "treatment_room", "private_spot",
    }  # fmt: skip
    assert named <= set(PROHIBITED)
    assert not set(PROHIBITED) & set(PERMITTED)
    assert sorted(CATEGORIES) == list(range(1, 14))


@pytest.mark.parametrize("kind", PERMITTED)
def test_the_vocabulary_is_taken(kind: str) -> None:
    assert check_place(8, kind, None, TODAY).type == kind


def test_a_decision_is_judged_by_the_rules_of_its_day() -> None:
    """Fitting rooms are prohibited since Reg-799 took effect, toilets since the measure did."""
    assert check_place(11, "fitting_room", None, date(2025, 3, 31)).type == "fitting_room"
    for kind, day in (("fitting_room", date(2025, 4, 1)), ("toilet", date(2015, 1, 1))):
        with pytest.raises(Refused):
            check_place(11, kind, None, day)


@pytest.mark.parametrize("category", [0, 14, -1])
def test_a_category_outside_1_to_13(category: int) -> None:
    with pytest.raises(Refused, match="1 to 13") as caught:
        check_place(category, "road", None, TODAY)
    assert caught.value.code == "UNKNOWN_PLACE"


def test_an_unknown_type_is_answered_with_near_ones() -> None:
    with pytest.raises(Refused, match="did you mean corridor") as caught:
        check_place(8, "coridor", None, TODAY)
    assert caught.value.code == "UNKNOWN_PLACE"


@pytest.mark.parametrize("basis", [None, "", "  "])
def test_category_13_needs_a_basis(basis: str | None) -> None:
    with pytest.raises(Refused) as caught:
        check_place(13, "road", basis, TODAY)
    assert caught.value.code == "NO_BASIS"
    assert check_place(13, "road", " order 7 ", TODAY).basis_doc == "order 7"


@pytest.mark.parametrize("code", RULES)
def test_every_refusal_names_an_article_and_a_way_out(code: str) -> None:
    refused = Refused(code, "x")
    assert "art." in refused.article and refused.remedy
