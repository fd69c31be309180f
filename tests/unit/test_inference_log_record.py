"""The record keeps every bit, and the spool gives back every record that was wholly written."""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.inference_log.neighbours import Neighbours
from fraud_platform.inference_log.record import (
    DecisionRecord,
    Seen,
    ServedBy,
    decode_record,
    encode_record,
    vector_bytes,
)
from fraud_platform.inference_log.search import find_decisions, the_decision
from fraud_platform.inference_log.spool import SpoolWriter, find_spooled, left_unsettled, read_spool, spool_folder
from fraud_platform.inference_log.table import LogTable, rows
from fraud_platform.lake import Lake
from fraud_platform.processing import DUPLICATE_WINDOW_US
from tests.record_kit import DAY, MIDNIGHT, append, record


@given(bits=st.lists(st.integers(0, 2**32 - 1), min_size=50, max_size=50), score=st.floats(0, 1))
def test_a_vector_and_a_score_keep_their_bits_nan_payloads_included(bits: list[int], score: float) -> None:
    vector = np.array(bits, np.uint32).view(np.float32)
    back = decode_record(encode_record(record(vector=vector_bytes(vector), score=score)))
    assert back.values.view(np.uint32).tolist() == bits
    assert back.score.hex() == score.hex()


def test_a_record_comes_back_whole() -> None:
    assert decode_record(encode_record(record())) == record()


BEFORE_ENTITY_EPOCHS = Path(__file__).parents[1] / "golden" / "record_before_entity_epochs.msgpack"
"""A record as it was written before velocity had epochs of single users and merchants."""


def test_a_record_written_before_epochs_of_entities_is_readable() -> None:
    expected = record(schema_version=2, epoch="e", complete_since=7, region="west", propensity=0.5)
    found = decode_record(BEFORE_ENTITY_EPOCHS.read_bytes())
    assert found == expected
    assert (found.user_counted_since, found.merchant_counted_since) == (None, None)


def test_an_old_record_is_readable_after_a_field_was_appended() -> None:
    class Next(DecisionRecord, frozen=True, kw_only=True, array_like=True):
        shadow_score: float | None = None

    assert msgspec.msgpack.decode(encode_record(record()), type=Next).shadow_score is None


@pytest.mark.parametrize(
    ("parts", "degraded"),
    [
        (("redis", "redis", "champion"), False),
        (("default", "redis", "champion"), True),
        (("redis", "default", "champion"), True),
        (("redis", "redis", "rules"), True),
        (("redis", "redis", "kill_switch"), True),
    ],
)
def test_anything_but_redis_and_the_champion_is_degraded(parts: tuple[str, str, str], degraded: bool) -> None:
    served = ServedBy(user_features=parts[0], merchant_features=parts[1], model=parts[2])
    assert record(served_by=served).degraded is degraded


@pytest.mark.parametrize(
    ("scored_by", "degraded"), [("champion", False), ("challenger", False), ("logistic_regression", True), (None, True)]
)
def test_where_a_list_decides_it_is_the_score_that_may_be_degraded(scored_by: str | None, degraded: bool) -> None:
    served = ServedBy(user_features="redis", merchant_features="redis", model="list")
    assert record(served_by=served, scored_by=scored_by).degraded is degraded


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[SpoolWriter]:
    writer = SpoolWriter(tmp_path, "17-1")
    yield writer
    writer.close()


def test_records_come_back_in_the_order_they_were_appended(tmp_path: Path, writer: SpoolWriter) -> None:
    written = [record(f"t-{n}") for n in range(20)]
    append(writer, *written)
    spool = read_spool(tmp_path, DAY)
    assert list(spool) == written
    assert spool.torn == 0


def test_a_record_lies_on_the_utc_day_it_was_received(tmp_path: Path, writer: SpoolWriter) -> None:
    append(writer, record("today"), record("before", received_at=MIDNIGHT - 1), record("again"))
    assert [r.request.transaction_id for r in read_spool(tmp_path, DAY)] == ["today", "again"]
    assert [r.request.transaction_id for r in read_spool(tmp_path, date(2026, 11, 22))] == ["before"]


def test_a_day_without_records_is_empty(tmp_path: Path) -> None:
    assert list(read_spool(tmp_path, DAY)) == []


def test_a_torn_tail_of_any_length_costs_that_record_alone_and_is_counted(tmp_path: Path, writer: SpoolWriter) -> None:
    append(writer, record("t-1"), record("t-2"))
    path = next(spool_folder(tmp_path, DAY).iterdir())
    whole = path.read_bytes()
    half = len(whole) // 2
    other = SpoolWriter(tmp_path, "99-1")
    append(other, record("t-3"))
    other.close()
    for cut in range(half + 1, len(whole)):
        path.write_bytes(whole[:cut])
        spool = read_spool(tmp_path, DAY)
        assert [r.request.transaction_id for r in spool] == ["t-1", "t-3"]
        assert spool.torn == 1


def test_a_flipped_bit_is_noticed(tmp_path: Path, writer: SpoolWriter) -> None:
    append(writer, record("t-1"), record("t-2"))
    path = next(spool_folder(tmp_path, DAY).iterdir())
    content = bytearray(path.read_bytes())
    content[-10] ^= 1
    path.write_bytes(content)
    spool = read_spool(tmp_path, DAY)
    assert [r.request.transaction_id for r in spool] == ["t-1"]
    assert spool.torn == 1


def test_a_killed_process_leaves_what_it_appended(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, 'tests/unit'); from pathlib import Path; import os, signal\n"
        "from tests.record_kit import record, append; from fraud_platform.inference_log.spool import *\n"
        f"append(SpoolWriter(Path({str(tmp_path)!r}), 'x'), *[record(str(n)) for n in range(5)])\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert [r.request.transaction_id for r in read_spool(tmp_path, DAY)] == list("01234")


def test_a_disk_that_fills_amid_a_record_loses_that_record_and_none_after_it(
    tmp_path: Path, writer: SpoolWriter
) -> None:
    append(writer, record("t-1"))
    size = next(spool_folder(tmp_path, DAY).iterdir()).stat().st_size
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))
    try:
        with pytest.raises(OSError, match="could be written"):
            append(writer, record("t-2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    append(writer, record("t-3"))
    spool = read_spool(tmp_path, DAY)
    assert [r.request.transaction_id for r in spool] == ["t-1", "t-3"]
    assert spool.torn == 0


def test_the_spool_is_nobody_elses_to_read(tmp_path: Path, writer: SpoolWriter) -> None:
    append(writer, record())
    assert next(spool_folder(tmp_path, DAY).iterdir()).stat().st_mode & 0o077 == 0


def test_a_decision_is_found_by_caller_and_transaction_on_the_latest_day(tmp_path: Path, writer: SpoolWriter) -> None:
    earlier = record("t-1", received_at=MIDNIGHT - 1, decision_id="1" * 32)
    append(
        writer,
        earlier,
        record("t-1", received_at=MIDNIGHT + 5, decision_id="3" * 32),
        record("t-1", received_at=MIDNIGHT + 4, decision_id="2" * 32),
        record("t-1", received_at=MIDNIGHT + 9, caller="other"),
        record("t-10", received_at=MIDNIGHT + 9),
    )
    mine, nobodys, unknown, tenth = ("default", "t-1"), ("nobody", "t-1"), ("default", "t-2"), ("default", "t-10")
    found = find_spooled(tmp_path, [mine, nobodys, unknown, tenth], until=DAY, days=2)
    assert {one.decision_id for one in found[mine]} == {"2" * 32, "3" * 32}
    assert found[nobodys] == found[unknown] == []
    assert [one.identity for one in found[tenth]] == [tenth]
    assert find_spooled(tmp_path, [mine, tenth], until=date(2026, 11, 22), days=1) == {mine: [earlier], tenth: []}
    assert find_spooled(tmp_path, [mine], until=date(2026, 11, 26), days=3) == {mine: []}


def test_what_other_workers_wrote_is_found_as_they_write_it(tmp_path: Path) -> None:
    mine, other, third = (SpoolWriter(tmp_path, name, segment_bytes=2_000) for name in ("1-1", "11-1", "2-1"))
    neighbours = Neighbours(tmp_path, "1-1")
    append(mine, record("t-1"))
    append(other, record("t-2", caller="a"), record("t-2", caller="b", decision="block"))
    assert neighbours.find("default", "t-1") is None, "its own it knows itself"
    found = neighbours.find("b", "t-2")
    assert found is not None
    assert decode_record(found).decision == "block"
    for number in range(20):
        append(third, record(f"n-{number}"))
    assert all(neighbours.find("default", f"n-{number}") for number in range(20))
    append(other, record("t-2", caller="b", superseded_by="7" * 32))
    assert neighbours.find("b", "t-2") is None, "it does not stand any more"
    assert neighbours.find("a", "t-2") is not None
    for path in spool_folder(tmp_path, DAY).glob("2-1-*"):
        path.unlink()
    assert neighbours.find("default", "n-3") is not None, "what was read is known when it is cut"
    append(other, record("t-9"))
    assert neighbours.find("default", "t-9") is not None


def test_what_a_dead_worker_left_unsettled_is_found_once_and_only_that(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "1-1")
    told = record("t-1", unsettled=True, decision_id="1" * 32)
    gone = record("t-2", unsettled=True, decision_id="2" * 32)
    append(writer, told, told, gone, record("t-3"), msgspec.structs.replace(gone, superseded_by="3" * 32))
    append(writer, record("t-4", unsettled=True, decision_id="4" * 32, received_at=MIDNIGHT - DUPLICATE_WINDOW_US))
    now = MIDNIGHT + 10
    assert left_unsettled(tmp_path, now) == [], "its writer lives"
    writer.close()
    assert left_unsettled(tmp_path, now) == [(told, encode_record(told))]


def test_the_log_reads_what_stands_and_keeps_what_was_told(tmp_path: Path) -> None:
    """Marks that came later, in another part; decisions whose worker died before they met; two callers, two regions."""
    log = LogTable(Lake(str(tmp_path)))
    clear = record("t-0", decision_id="0" * 32)
    lost = record("t-1", decision_id="1" * 32, decision="allow")
    block = record("t-1", decision_id="2" * 32, decision="block", received_at=MIDNIGHT + 5)
    by_rules = ServedBy(user_features="default", merchant_features="default", model="rules")
    late = record("t-2", decision_id="3" * 32, decision="flag_for_review", served_by=by_rules, unsettled=True)
    first = record("t-2", decision_id="4" * 32, received_at=MIDNIGHT + 7)
    others = [
        record("t-1", decision_id="5" * 32, caller="other"), record("t-1", decision_id="6" * 32, region="south"),
    ]  # fmt: skip
    told = [clear, lost, block, late, first, *others]
    log.commit(rows([(one, encode_record(one)) for one in told]), {"b": {"0": b"1"}})
    marked = msgspec.structs.replace(lost, superseded_by=block.decision_id)
    for _ in range(2):
        log.commit(rows([(marked, encode_record(marked))]), {})
    for merged in (False, True):
        if merged:
            assert log.merge(DAY) == len(told)
        standing = {one.decision_id for one in log.records(DAY)}
        assert standing == {"0" * 32, "2" * 32, "4" * 32, "5" * 32, "6" * 32}
        marks = {one.decision_id: one.superseded_by for one in log.records(DAY, told=True)}
        assert marks == {one.decision_id: None for one in told} | {lost.decision_id: block.decision_id}
        assert log.read(DAY, ["transaction_id"])["transaction_id"].to_pylist().count("t-2") == 1
        assert log.log_keys(DAY) >= {marked.log_key, block.log_key}
        assert marked.log_key != lost.log_key
        found = find_decisions(tmp_path, log, [("default", "t-1")], DAY, 3)
        assert {one.decision_id for one in found.values()} == {block.decision_id}
        assert the_decision(tmp_path, log, lost.decision_id).superseded_by == block.decision_id


def test_a_day_written_before_there_were_marks_is_read(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    log = LogTable(lake)
    one = record()
    log.commit(rows([(one, encode_record(one))]), {"b": {"0": b"1"}})
    (path,) = lake.files("inference_log", "*.parquet", DAY)
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["superseded_by"]), path)
    assert log.log_keys(DAY) == {one.log_key}
    assert [each.decision_id for each in log.records(DAY)] == [one.decision_id]


def test_versions_with_and_without_a_second_vector_read_each_other() -> None:
    other = Seen(
        catalogue_hash="0123456789ab", vector=vector_bytes(np.array([1.5, np.nan, 51], np.float32)),
        user_features="default", merchant_features="redis", user_snapshot=None, merchant_snapshot="2026-11-22",
    )  # fmt: skip
    now = record(other_version="fraud-detector/8", other_score=0.25, other_seen=other)
    payload = encode_record(now)
    assert decode_record(payload) == now
    assert now.other_degraded
    assert (now.other_catalogue_hash, len(other.values)) == ("0123456789ab", 3)
    assert rows([(now, payload)]).select(["other_catalogue_hash", "other_degraded"]).to_pylist() == [
        {"other_catalogue_hash": "0123456789ab", "other_degraded": True}
    ]
    # the field is the last of an array: one version leaves it out, the other passes it over
    plain = msgspec.msgpack.decode(payload)
    before = decode_record(msgspec.msgpack.encode(plain[:-1]))
    assert before == msgspec.structs.replace(now, other_seen=None)
    assert (before.other_degraded, before.other_catalogue_hash) == (None, None)
    assert decode_record(msgspec.msgpack.encode([*plain, "of a later version"])) == now
