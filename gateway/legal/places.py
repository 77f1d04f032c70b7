"""Where a camera may stand: the categories of art. 7 and the vocabulary of place types, as data.

Owns both tables and the check. A prohibited type is refused with PRIVATE_PLACE and nothing
overrides that: there is no parameter for it. Rules carry the day they took effect, so that a
decision can be judged by the rules of its day.
"""

from __future__ import annotations

import difflib
import unicodedata
from dataclasses import dataclass
from datetime import date

from gateway.legal.refusals import Refused

CATEGORY_OTHER = 13

CATEGORIES: dict[int, str] = {
    1: "dangerous goods, arms, pathogens, precursors",
    2: "archives of state secrets",
    3: "museums, relics",
    4: "banks, vaults, valuables",
    5: "broadcasting, telecommunications, post, data centres",
    6: "energy, water, power, gas",
    7: "dykes, reservoirs, flood works",
    8: "airports, ports, stations, parking, roads, metro, tunnels, bridges",
    9: "material reserves, oil depots, civil defence, chemical plants",
    10: "hotels, entertainment, internet cafes: halls, lifts, corridors, exits",
    11: "malls, markets, stadiums, parks, hospitals, schools; gates and perimeter of housing",
    12: "buses, coaches, ships",
    13: "other places named by a law or a government (needs a basis document)",
}

_MEASURE = date(2015, 1, 1)
_REG_799 = date(2025, 4, 1)


@dataclass(frozen=True, slots=True)
class PlaceType:
    """One word of the vocabulary. ``prohibited_since``: from that day no camera may stand there."""

    slug: str
    name_zh: str
    prohibited_since: date | None = None


_TYPES: tuple[PlaceType, ...] = (
    PlaceType("road", "道路"),
    PlaceType("junction", "路口"),
    PlaceType("highway", "公路"),
    PlaceType("bridge", "桥梁"),
    PlaceType("tunnel", "隧道"),
    PlaceType("city_entrance", "城市出入口"),
    PlaceType("square", "广场"),
    PlaceType("park", "公园"),
    PlaceType("street", "街面"),
    PlaceType("parking", "停车场"),
    PlaceType("gate", "大门"),
    PlaceType("entrance", "入口"),
    PlaceType("exit", "出口"),
    PlaceType("perimeter", "周界"),
    PlaceType("yard", "院落"),
    PlaceType("lobby", "大厅"),
    PlaceType("hall", "厅堂"),
    PlaceType("corridor", "通道"),
    PlaceType("stairway", "楼梯"),
    PlaceType("lift", "电梯"),
    PlaceType("reception", "接待处"),
    PlaceType("counter", "柜台"),
    PlaceType("cash_desk", "收银台"),
    PlaceType("vault", "金库"),
    PlaceType("self_service_bank", "自助银行"),
    PlaceType("shop_floor", "营业场所"),
    PlaceType("market", "市场"),
    PlaceType("stand", "看台"),
    PlaceType("exhibition_room", "展厅"),
    PlaceType("archive", "档案室"),
    PlaceType("storeroom", "库房"),
    PlaceType("warehouse", "仓库"),
    PlaceType("tank_farm", "储罐区"),
    PlaceType("production_area", "生产区"),
    PlaceType("machine_room", "机房"),
    PlaceType("control_room", "控制室"),
    PlaceType("dyke", "堤防"),
    PlaceType("reservoir", "水库"),
    PlaceType("waterworks", "水厂"),
    PlaceType("substation", "变电站"),
    PlaceType("platform", "站台"),
    PlaceType("waiting_hall", "候车厅"),
    PlaceType("security_check", "安检口"),
    PlaceType("apron", "停机坪"),
    PlaceType("quay", "码头"),
    PlaceType("vehicle_cabin", "车厢"),
    PlaceType("ship_deck", "甲板"),
    PlaceType("school_gate", "校门"),
    PlaceType("playground", "操场"),
    PlaceType("registration_hall", "挂号厅"),
    PlaceType("dormitory", "宿舍", _MEASURE),
    PlaceType("staff_dormitory", "员工宿舍", _MEASURE),
    PlaceType("student_dormitory", "学生宿舍", _MEASURE),
    PlaceType("hotel_guest_room", "旅馆客房", _MEASURE),
    PlaceType("bathroom", "浴室", _MEASURE),
    PlaceType("toilet", "卫生间", _MEASURE),
    PlaceType("changing_room", "更衣室", _MEASURE),
    PlaceType("fitting_room", "试衣间", _REG_799),
    PlaceType("private_dining_room", "包间", _REG_799),
    PlaceType("nursing_room", "哺乳室", _REG_799),
    PlaceType("staff_rest_room", "员工休息室", _REG_799),
    PlaceType("ward", "病房", _REG_799),
    PlaceType("treatment_room", "诊疗室", _REG_799),
    PlaceType("private_spot", "隐私部位", _MEASURE),
)
_BY_NAME: dict[str, PlaceType] = {
    name: kind for kind in _TYPES for name in (kind.slug, kind.name_zh)
}

PERMITTED: tuple[str, ...] = tuple(kind.slug for kind in _TYPES if kind.prohibited_since is None)
PROHIBITED: tuple[str, ...] = tuple(
    kind.slug for kind in _TYPES if kind.prohibited_since is not None
)


@dataclass(frozen=True, slots=True)
class Place:
    """A place that may have a camera; made by :func:`check_place` alone."""

    category: int
    type: str
    basis_doc: str | None


def check_place(category: int, place_type: str, basis_doc: str | None, today: date) -> Place:
    """The place, in the vocabulary's own words.

    Raises Refused: PRIVATE_PLACE for a prohibited type (whatever else is wrong: this is checked
    first), UNKNOWN_PLACE, NO_BASIS for category 13 without a basis document.
    """
    name = _normalised(place_type)
    kind = _BY_NAME.get(name)
    if kind is not None and kind.prohibited_since is not None and today >= kind.prohibited_since:
        raise Refused("PRIVATE_PLACE", f"{kind.slug} ({kind.name_zh}) is a private place")
    if category not in CATEGORIES:
        raise Refused(
            "UNKNOWN_PLACE",
            f"place category {category} does not exist: it is a number from 1 to 13",
        )
    if kind is None:
        near = difflib.get_close_matches(name, PERMITTED, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise Refused("UNKNOWN_PLACE", f"place type {place_type!r} is not in the vocabulary{hint}")
    basis = (basis_doc or "").strip() or None
    if category == CATEGORY_OTHER and basis is None:
        raise Refused("NO_BASIS", "place category 13 needs a basis document")
    return Place(category, kind.slug, basis)


def _normalised(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).strip().casefold()
    return text.replace(" ", "_").replace("-", "_")
