"""Hashes of features and of sets: they change with a meaning and with nothing else, and the fifty keep their names."""

from dataclasses import replace
from datetime import date
from typing import Any

import msgspec
import pytest

from fraud_platform.features.catalogue import CATALOGUE, VALUES_VERSION, Catalogue
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR, packed_view
from fraud_platform.online.snapshot_record import SnapshotRecord, encode_record

FIFTY = ("72ced253273c", "245935cadee1", "4f96445056f3")
"""What homes, bundles and records of the three versions of the values carry."""


def changed(name: str, /, **fields: Any) -> Catalogue:
    return Catalogue(tuple(replace(one, **fields) if one.name == name else one for one in CATALOGUE.features))


def differing(other: Catalogue) -> set[str]:
    return {name for name in CATALOGUE.names if other.hashes.get(name) != CATALOGUE.hashes[name]}


def test_the_fifty_keep_the_names_under_which_they_were_stored() -> None:
    assert CATALOGUE.hash == FIFTY[VALUES_VERSION - 1]
    assert CATALOGUE.alike == set(FIFTY)
    assert (USER_VECTOR.name, MERCHANT_VECTOR.name) == ("user_vector", "merchant_vector")


def test_no_two_features_mean_the_same() -> None:
    assert len(set(CATALOGUE.hashes.values())) == 50


@pytest.mark.parametrize(
    "fields",
    [
        {"aggregate": "max"}, {"operand": "fee"}, {"condition": "channel = 'online'"}, {"window": "31d"},
        {"delay_days": 1}, {"cold_start": "zero"}, {"dtype": "float64"}, {"entity": "merchant"},
        {"inputs": ("user_tiles.fee_sum",)},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_what_a_feature_means_is_in_its_hash_and_in_those_made_of_it(fields: dict[str, Any]) -> None:
    other = changed("user_amount_avg_30d", **fields)
    assert differing(other) == {"user_amount_avg_30d", "amount_to_user_avg_30d"}
    assert other.hash not in CATALOGUE.alike


@pytest.mark.parametrize(
    "fields", [{"unit": "cents"}, {"meaning": "Else told."}], ids=lambda fields: next(iter(fields))
)
def test_how_a_feature_is_told_is_not(fields: dict[str, Any]) -> None:
    other = changed("user_amount_avg_30d", **fields)
    assert differing(other) == set()
    assert other.hash == CATALOGUE.hash


def test_a_set_is_its_members_by_name_in_order() -> None:
    first, second, *rest = CATALOGUE.names
    hashes = {CATALOGUE.hash_of(names) for names in ((first, second), (second, first), (first,), rest)}
    assert len(hashes) == 4
    renamed = changed(first, name="of_another_name")
    assert renamed.hashes["of_another_name"] == CATALOGUE.hashes[first]
    assert renamed.hash != CATALOGUE.hash


def test_features_in_a_circle_are_refused() -> None:
    circle = changed("user_amount_avg_30d", inputs=("request.amount_to_user_avg_30d",))
    with pytest.raises(ValueError, match="made of itself"):
        _ = circle.hashes


class _Before(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot's record as the version before views had hashes reads it."""

    view: str
    snapshot: date
    snapshot_at: int
    visible_from: int
    loaded_at: int
    catalogue_hash: str
    medians: list[float | None]
    rows: int
    follows: int | None = None


def test_a_service_of_the_version_before_reads_the_fifty_s_record() -> None:
    record = SnapshotRecord(
        view=USER_VECTOR.name, snapshot=date(2026, 3, 4), snapshot_at=1, visible_from=2, loaded_at=3,
        catalogue_hash=CATALOGUE.hash, medians=[1.5, None], rows=4, view_hash=USER_VECTOR.hash,
    )  # fmt: skip
    found = msgspec.json.decode(encode_record(record), type=_Before)
    assert msgspec.structs.asdict(found) == {
        name: value for name, value in msgspec.structs.asdict(record).items() if name not in ("view_hash", "form")
    }
    assert (found.view, found.catalogue_hash) == ("user_vector", FIFTY[-1])


def test_a_view_of_other_features_has_a_name_of_its_own() -> None:
    first, *rest = CATALOGUE.of("user")
    names = {
        packed_view("user", Catalogue(tuple(features))).name
        for features in (CATALOGUE.of("user"), rest, [*rest, first], [replace(first, window="2d"), *rest])
    }
    assert len(names) == 4
    assert all(name == "user_vector" or name.startswith("user_vector_") for name in names)


def test_a_feature_of_another_block_leaves_the_views_as_they_are() -> None:
    other = changed("is_online", condition="channel = 'pos'")
    assert packed_view("user", other) == USER_VECTOR
    assert packed_view("merchant", other).name == "merchant_vector"


@pytest.mark.parametrize(("view_hash", "catalogue_hash", "ours"), [
    (USER_VECTOR.hash, "0123456789ab", True),
    (MERCHANT_VECTOR.hash, CATALOGUE.hash, False),
    ("0123456789ab", CATALOGUE.hash, False),
    *((None, former, True) for former in FIFTY),
    (None, "0123456789ab", False),
])  # fmt: skip
def test_a_record_without_a_hash_is_the_fiftys(view_hash: str | None, catalogue_hash: str, ours: bool) -> None:
    record = SnapshotRecord(
        view="user_vector", snapshot=date(2026, 3, 4), snapshot_at=1, visible_from=1, loaded_at=1,
        catalogue_hash=catalogue_hash, medians=[], rows=0, view_hash=view_hash,
    )  # fmt: skip
    assert record.is_of(USER_VECTOR) is ours
    reversed_view = packed_view("user", Catalogue(tuple(reversed(CATALOGUE.of("user")))))
    assert not record.is_of(reversed_view)
