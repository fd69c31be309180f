"""Erasure without servers: what names a user, what becomes of rows and records, who is kept out of an import."""

import json
import stat
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud_platform.erasure.files import find
from fraud_platform.erasure.home import blank_comments, comments
from fraud_platform.erasure.mentions import mentions, record_names, text_names
from fraud_platform.erasure.names import Names, plain
from fraud_platform.erasure.person import identify, keep_under_way
from fraud_platform.erasure.rows import anonymised, anonymised_record
from fraud_platform.erasure.suppression import (
    read_suppression,
    rewrite_without_erased,
    suppress,
    suppression_path,
    without_erased,
)
from fraud_platform.erasure.witness import Witness
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.tiles import MERCHANT_TILE
from fraud_platform.inference_log.record import Seen, decode_record, encode_record, vector_bytes
from fraud_platform.inference_log.spool import SpoolWriter
from fraud_platform.inference_log.table import rows as log_rows
from fraud_platform.ingest.feedback import FeedbackLabel, FeedbackWriter, read_feedback
from fraud_platform.lake import Lake, open_lake
from fraud_platform.schema import EXPORT, QUARANTINE, TIME
from fraud_platform.settings import Settings
from tests.monitoring_kit import log_decisions
from tests.record_kit import DAY, MIDNIGHT, append, record

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
PSEUDONYM = "erased-0123"
U1 = Names("u-1")


def export(*users: str | None, **columns: Any) -> pa.Table:
    """EXPORT rows of these users at noon, each with a device and a place."""
    plain = {
        "transaction_id": "t", "merchant_id": "42", "amount_minor": 100, "currency": "EUR", "timestamp": NOON,
        "received_at": NOON, "country": "DE", "user_country": "FR", "device_id": "d-1", "latitude": 1.5,
        "longitude": 2.5,
    }  # fmt: skip
    return pa.Table.from_pylist([plain | {"user_id": user} | columns for user in users], EXPORT)


def test_only_the_user_s_rows_change_and_only_in_what_is_personal() -> None:
    before = export("7", "42", None, "77")
    after = anonymised(before, mentions(before, Names("42")), Names("42"), {"42": PSEUDONYM})
    assert after.schema == before.schema
    changed = after.to_pylist()
    # the merchant bears the same number, and keeps it
    assert changed[1] == before.to_pylist()[1] | {
        "user_id": PSEUDONYM, "device_id": None, "latitude": None, "longitude": None,
    }  # fmt: skip
    assert [row for n, row in enumerate(changed) if n != 1] == [r for n, r in enumerate(before.to_pylist()) if n != 1]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("u-1", True),
        ("u-10", False),
        ('{"user": "u-1", "amount": 3}', True),
        ('{"customer": {"ids": ["x", "u-1"]}}', True),
        ('{"memo": "for u-1, thanks"}', True),
        ('{"u-1": 3}', True),
        ('{"merchant_id": "u-1"}', False),
        ('{"user_id": "u-10"}', False),
        ('{"user": "u-1", "amo', True),
        ('{"user": "u-10", "amo', False),
        ('{"memo": "hello\\nu-1', True),
        ("7,u-1,cut", True),
        ('7,"u-1"', True),
        ("7,xu-1,u-10,u-1-2,x-u-1,u-1_", False),
        ("?user=u-1&x", True),
        ("%20u-1%20", True),
    ],
)
def test_a_rejected_row_names_a_user_as_an_identifier_of_its_own(text: str, named: bool) -> None:
    assert text_names("row", text, Names("u-1")) is named
    table = pa.table({"reason": ["x"], "row": [text]}, schema=QUARANTINE)
    assert mentions(table, Names("u-1")).tolist() == [named]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *[(f"7,{form},cut", True) for form in ("12345", "12345.0", "12345.", "1.2345e4", "1.2345E+04", "1.23450e+4")],
        *[(f"7,{form},cut", False) for form in ("123450", "12345.5", "12345.05", "7.12345", "1.2345e5", "012345")],
        *[(f"7,{form},cut", False) for form in ("11.2345e4", "12345:10", "1.2345e44", "-12345", "10:12345")],
        ('{"user": 12345}', True),
        ('{"user": 12345.0}', True),
        ('{"user": 1.2345e4}', True),
        ('{"user": 123456}', False),
        ("12345. Then", True),
    ],
)
def test_a_number_is_the_same_user_in_whatever_way_it_was_written(text: str, named: bool) -> None:
    table = pa.table({"reason": ["x"], "row": [text]}, schema=QUARANTINE)
    for user in ("12345", "12345.0"):
        assert mentions(table, Names(user)).tolist() == [named], user


def test_what_a_float_would_have_merged_is_nobody_s_other_spelling() -> None:
    assert [plain(text) for text in ("12345.0", "1.2345e4", "5e0", "0.0")] == ["12345", "12345", "5", "0"]
    for text in ("007", "007.0", "12345.5", "u-1", "1e", "1.5", "", "9007199254740993.0", "1e99", "-5.0", "nan"):
        assert plain(text) == text


@pytest.mark.parametrize("user", ["Zoë Müller", 'a"b\\c', "bob@bank.example", "x/y z", "用户-7"])
def test_an_identifier_of_any_letters_is_found_as_formats_write_it(user: str) -> None:
    names = Names(user)
    told = [json.dumps({"c": user}), json.dumps({"c": user}, ensure_ascii=False), json.dumps(json.dumps({"c": user}))]
    for text in (*told, *(whole[:-2] + ', "cut' for whole in told), f"a;{user};b", f"?u={quote(user, safe='')}&b"):
        assert text_names("row", text, names), text


def test_prose_names_a_device_and_no_number_of_few_digits() -> None:
    names = Names("42", devices=frozenset({"phone-1", "d"}))
    assert names.redacted("42 payments by phone-1 of d, phone-10", "?") == "42 payments by ? of d, phone-10"
    assert Names("4242").redacted("4242", "?") == "4242"
    assert Names("42424").redacted("42424 and 424240", "?") == "? and 424240"


def test_a_device_that_is_a_word_is_no_one_s_name_in_a_text() -> None:
    names = Names("u-12345", devices=frozenset({"mobile"}))
    rows = export("7", channel="mobile", device_id="d")
    assert not mentions(rows, names).any()
    assert not names.in_text("7,mobile,cut")
    assert names.redacted("the mobile app", "?") == "the mobile app"
    assert mentions(export(None, device_id="mobile"), names).all()
    other = record(request=msgspec.structs.replace(record().request, user_id="7", channel="mobile"))
    assert not record_names(encode_record(other), names)


def test_devices_are_the_user_s_alone_where_no_row_and_no_record_of_another_has_them(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    lake = open_lake(settings)
    used = {"u-1": ["mine", "in-raw", "in-log", "in-spool"], "u-2": ["in-raw", "theirs"], None: ["mine"]}
    rows = [export(user, device_id=device) for user, devices in used.items() for device in devices]
    lake.write("raw_transactions", NOON.date(), pa.concat_tables(rows))

    def decided(user: str, device: str) -> Any:
        request = msgspec.structs.replace(record().request, user_id=user, device_id=device)
        return record(request=request, decision_id=f"{user}{device}")

    logged = [decided("u-1", "mine-in-log"), decided("u-2", "in-log"), decided("u-10", "mine-in-log-too")]
    lake.write("inference_log", NOON.date(), log_rows([(one, encode_record(one)) for one in logged]))
    writer = SpoolWriter(tmp_path, "1-1")
    append(writer, decided("u-2", "in-spool"), decided("u-1", "mine-in-spool"))
    writer.close()
    found = identify(settings, "u-1", None)
    assert found.devices == {"mine", "mine-in-log", "mine-in-spool"}
    # rows that an erasure has changed tell nothing any more: what was kept does
    suppression_path(tmp_path).parent.mkdir()
    keep_under_way(tmp_path, PSEUDONYM, Names("u-1", devices=frozenset({"gone", "theirs"})))
    assert identify(settings, "u-1", PSEUDONYM).devices == found.devices | {"gone"}


def test_bytes_name_a_user_by_their_record_and_else_by_holding_the_identifier() -> None:
    assert record_names(encode_record(record()), Names("u-1"))
    assert not record_names(encode_record(record()), Names("m-1"))
    assert record_names(b"\xff\xffu-1\xff", Names("u-1"))
    assert record_names(b"\xff\xa3u-17", Names("u-1"))
    assert not record_names(b"\xff\xffu-10\xff", Names("u-1"))


def test_of_another_s_row_goes_what_names_the_user_and_nothing_else() -> None:
    before = export("7", merchant_category="for u-12345")
    names = Names("u-12345")
    after = anonymised(before, mentions(before, names), names, {"u-12345": PSEUDONYM})
    assert after.to_pylist() == [before.to_pylist()[0] | {"merchant_category": None}]
    other = record(request=msgspec.structs.replace(record().request, user_id="7", device_id="d", channel="u-12345"))
    assert record_names(encode_record(other), names)
    request = decode_record(anonymised_record(encode_record(other), names, {"u-12345": PSEUDONYM})).request
    assert (request.user_id, request.device_id, request.channel) == ("7", "d", None)


def test_a_row_without_a_user_goes_by_the_device_that_was_one_user_s_alone() -> None:
    before = export(None, "7")
    names = Names("u-1", devices=frozenset({"d-1"}))
    rows = before.slice(0, 1)
    after = anonymised(rows, mentions(rows, names), names, {"u-1": PSEUDONYM})
    assert (after["device_id"].to_pylist(), after["latitude"].to_pylist()) == ([None], [None])
    assert not mentions(before, Names("u-1")).any()


def test_a_merchant_s_tile_keeps_its_count_and_its_order() -> None:
    sums = [0] * 7
    columns = {name: [n] for name, n in zip(MERCHANT_TILE.names[1:-1], sums, strict=False)}
    tile = pa.table({"merchant_id": ["m"], **columns, "users": [["a", "u-1", "z"]]}).cast(MERCHANT_TILE)
    after = anonymised(tile, mentions(tile, U1), U1, {"u-1": PSEUDONYM})
    assert after["users"].to_pylist() == [["a", PSEUDONYM, "z"]]
    late = anonymised(tile, mentions(tile, U1), U1, {"u-1": "zz-last"})
    assert late["users"].to_pylist() == [["a", "z", "zz-last"]]


@pytest.mark.parametrize("catalogue_hash", [*sorted(CATALOGUE.alike), "0123456789ab"])
def test_a_decision_s_record_is_the_pseudonym_s_and_else_the_same(catalogue_hash: str) -> None:
    vector = np.arange(50, dtype=np.float32)
    mine = record(catalogue_hash=catalogue_hash, vector=vector_bytes(vector))
    request = msgspec.structs.replace(mine.request, device_id="d-1", latitude=1.0, longitude=2.0)
    mine = msgspec.structs.replace(mine, request=request, request_hash=request.content_hash())
    table = log_rows([(mine, encode_record(mine)), (other := record("t-2", request=_of("u-2")), encode_record(other))])
    after = anonymised(table, mentions(table, U1), U1, {"u-1": PSEUDONYM})
    found = decode_record(after["record"][0].as_py())
    assert found.request == msgspec.structs.replace(
        request, user_id=PSEUDONYM, device_id=None, latitude=None, longitude=None
    )
    assert found.request_hash == found.request.content_hash() != mine.request_hash
    position = CATALOGUE.names.index("device_is_new")
    for values in (found.values, np.array(after["vector"][0].as_py(), np.float32)):
        assert np.isnan(values[position])
        assert np.delete(values, position).tolist() == np.delete(vector, position).tolist()
    same = {"request": found.request, "request_hash": found.request_hash, "vector": found.vector}
    assert msgspec.structs.replace(mine, **same) == found
    assert after.slice(1).equals(table.slice(1))
    assert b"u-1" not in anonymised_record(encode_record(mine), U1, {"u-1": PSEUDONYM})


def test_neither_vector_of_a_decision_keeps_what_is_known_of_the_device() -> None:
    wider = np.arange(51, dtype=np.float32)
    other = Seen(
        catalogue_hash="0123456789ab", vector=vector_bytes(wider), user_features="redis", merchant_features="redis",
        user_snapshot=None, merchant_snapshot=None,
    )  # fmt: skip
    mine = record(other_version="fraud-detector/8", other_score=0.5, other_seen=other)
    found = decode_record(anonymised_record(encode_record(mine), U1, {"u-1": PSEUDONYM})).other_seen
    assert found is not None
    # two before the end, as in the fifty
    assert np.flatnonzero(np.isnan(found.values)).tolist() == [49]
    assert np.delete(found.values, 49).tolist() == np.delete(wider, 49).tolist()


def _of(user: str) -> Any:
    return msgspec.structs.replace(record().request, user_id=user)


def test_a_pseudonym_is_one_of_this_home_alone_and_the_record_never_holds_the_user(tmp_path: Path) -> None:
    user = "user-with-a-name"
    first = suppress(tmp_path / "a", Names(user, devices=frozenset({"a-phone"})), 5)
    assert suppress(tmp_path / "a", Names(user), 9)[user] == first[user]
    assert suppress(tmp_path / "b", Names(user), 5)[user] != first[user]
    record = read_suppression(tmp_path / "a")
    assert record is not None
    # a device that an erasure before this one knew of stays known
    told = [(entry.pseudonym, entry.at, entry.devices) for entry in record.erased]
    assert told == [(first[user], 9, (first["a-phone"],))]
    path = suppression_path(tmp_path / "a")
    assert b"user-with-a-name" not in path.read_bytes()
    assert b"a-phone" not in path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_import_brings_back_nobody_who_was_erased_after_the_payment(tmp_path: Path) -> None:
    at = int(NOON.timestamp() * 1e6)
    pseudonym = suppress(tmp_path, U1, at + 1)["u-1"]
    record = read_suppression(tmp_path)
    rows = without_erased(export("u-1", "u-2"), record).to_pylist()
    assert [row["user_id"] for row in rows] == [pseudonym, "u-2"]
    assert [row["device_id"] for row in rows] == [None, "d-1"]
    # a customer again: what is received afterwards is theirs
    later = export("u-1", received_at=datetime(2026, 11, 24, tzinfo=UTC))
    assert without_erased(later, record).equals(later)
    # without a time of receipt the payment's own counts, without any it is old
    untimed = export("u-1", received_at=None, timestamp=None)
    assert without_erased(untimed, record)["user_id"].to_pylist() == [pseudonym]


def test_a_cached_import_and_a_rejected_row_s_text_lose_the_user_too(tmp_path: Path) -> None:
    suppress(tmp_path, U1, int(NOON.timestamp() * 1e6) + 1)
    texts = pa.array([json.dumps({"customer": "u-1"}), json.dumps({"customer": "u-2"}), None])
    table = export(None, None, "u-1").append_column("source_row", texts)
    path = tmp_path / "cache.parquet"
    pq.write_table(table, path, row_group_size=2)
    rewrite_without_erased(path, read_suppression(tmp_path))
    after = pq.read_table(path)
    assert after.schema.names == table.schema.names
    assert after["source_row"].to_pylist() == [None, '{"customer": "u-2"}', None]
    assert mentions(after, U1).tolist() == [False] * 3
    assert [path.name for path in tmp_path.glob("cache*")] == ["cache.parquet"]


def test_comments_on_the_user_s_payments_are_written_over_beside_a_living_writer(tmp_path: Path) -> None:
    writer = FeedbackWriter(tmp_path, "1-1")

    def label(transaction_id: str, comment: str | None) -> FeedbackLabel:
        return FeedbackLabel(
            feedback_id=transaction_id, caller="c", transaction_id=transaction_id, transaction_date=DAY,
            arrived_at=MIDNIGHT, source="customer", revision=1, state="confirmed", comment=comment,
        )  # fmt: skip

    writer.append(label("t-1", 'called: "not me", said Zoë'))
    writer.append(label("t-2", "another's, of \"u-1\" and Zoë's phone-7; u-10 and u-1-2 are not"))
    writer.append(label("t-3", None))
    names = Names("u-1", devices=frozenset({"Zoë's phone-7"}))
    mine = {("c", "t-1"), ("c", "t-3"), ("another", "t-2")}
    assert len(list(comments(tmp_path, mine, names))) == 3
    blank_comments(tmp_path, mine, names)
    writer.append(label("t-4", "after"))
    writer.close()
    found = {one.transaction_id: one.comment for one in read_feedback(tmp_path, date(2026, 11, 23))}
    assert set(found["t-1"] or "") == {"-"}
    assert (found["t-2"], found["t-3"], found["t-4"]) == (
        'another\'s, of "---" and --------------; u-10 and u-1-2 are not', None, "after",
    )  # fmt: skip
    assert list(comments(tmp_path, mine, names)) == []


def test_half_a_line_that_a_killed_writer_left_loses_the_user_too(tmp_path: Path) -> None:
    path = tmp_path / "feedback" / "arrived=2026-11-23" / "1-1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"feedback_id":"f","comment":"called u-1 and u-10')
    blank_comments(tmp_path, set(), U1)
    assert path.read_text() == '{"feedback_id":"f","comment":"called --- and u-10'


def test_the_user_s_payments_are_found_with_their_callers_in_young_and_old_files(
    tmp_path: Path, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings(home=tmp_path)
    lake = Lake(settings.lake)
    mine = record("t-1", caller="bank", decision_id="1" * 32)
    log_decisions(lake, [mine])
    names = ("transaction_id", "user_id", "received_at", "caller")

    def rows(*told: tuple[str, str, int, str]) -> pa.Table:
        columns = dict(zip(names, zip(*told, strict=True), strict=True))
        return pa.table({**columns, "received_at": pa.array(columns["received_at"], pa.int64()).cast(TIME)})

    # another user's payments of other callers bear the same ids
    old = rows(("t-1", "u-1", MIDNIGHT, "bank"), ("t-2", "u-1", MIDNIGHT, "default"), ("t-3", "u-2", MIDNIGHT, "bank"))
    lake.write(tables.RAW_TRANSACTIONS, DAY, old.drop_columns(["caller"]))
    young = rows(
        ("t-3", "u-1", MIDNIGHT, "shop"), ("t-2", "u-2", MIDNIGHT, "shop"), ("t-1", PSEUDONYM, MIDNIGHT, "shop")
    )
    lake.write(tables.RAW_TRANSACTIONS, DAY + timedelta(days=1), young)
    # an import's cache says nothing of callers
    Lake(str(tmp_path / "imports")).write("shop", DAY, young.drop_columns(["caller"]))
    found = find(settings, U1, [PSEUDONYM])
    assert found.payments == {("bank", "t-1"), ("default", "t-2"), ("shop", "t-3"), ("shop", "t-1")}
    assert found.rows == {"inference_log": 1, "raw_transactions": 3, "imports": 1}


def test_a_forgotten_file_that_names_the_user_is_found_and_one_that_names_another_is_not(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "service.log").write_text("x" * 100 + "user=u-123; late")
    (tmp_path / "log" / "other.log").write_text("u-1230 xu-123 u-123-2")
    (tmp_path / "lake").mkdir()
    (tmp_path / "lake" / "page.html").write_text("u-123")
    found = list(Witness(["u-123"], []).folder(tmp_path, without=[tmp_path / "lake"]))
    assert [(seen.place, seen.certain) for seen in found] == [(str(tmp_path / "log" / "service.log"), True)]
