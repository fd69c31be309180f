"""One user erased from a home with real stores: nothing names them, merchants' features stay, imports keep them out."""

import json
import shutil
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psycopg
import pyarrow as pa
import pytest
import redis
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.dataset import fix_dataset
from fraud_platform.decision.policy_change import PolicyChange, change_policy, parse_change
from fraud_platform.decision.policy_record import PolicyRecord, read_policy
from fraud_platform.erasure import files
from fraud_platform.erasure.erase import erase, look
from fraud_platform.features import tables
from fraud_platform.features.snapshots import write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_merchant_tiles, write_user_tiles
from fraud_platform.history import build_history
from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.spool import SpoolWriter, segments
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.steps import ingest_transactions
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.ledger import read_ledger
from fraud_platform.online.cold_writer import cold_table, write_cold
from fraud_platform.online.decision_key import decision_key
from fraud_platform.online.embedded_postgres import ensure_postgres, stop_postgres
from fraud_platform.online.packed import PROJECT, USER_VECTOR, VIEWS
from fraud_platform.online.snapshot_load import load_snapshot_direct, packed_snapshot
from fraud_platform.online.warm import warm_velocity
from fraud_platform.settings import Settings
from tests.record_kit import append, record

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1e6)


@dataclass
class World:
    settings: Settings
    lake: Lake
    days: list[date]
    user: str
    other: str


SIZE: dict[str, Any] = {"users": 30, "merchants": 6, "transactions_per_day": 120, "history_days": 4}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a few days of a small bank in its lake; each test takes a copy."""
    settings = Settings(home=tmp_path_factory.mktemp("history") / "home", **SIZE)
    build_history(settings, open_lake(settings), NOW)
    return settings.home


@pytest.fixture
def world(history: Path, tmp_path: Path, redis_url: str) -> Iterator[World]:
    """The history in the lake, in Redis and in PostgreSQL, with two decisions in the spool."""
    settings = Settings(home=tmp_path / "home", redis_url=redis_url, **SIZE)
    shutil.copytree(history, settings.home)
    lake = open_lake(settings)
    days = lake.days(tables.TRAINING_SET)
    counted = lake.read_days(tables.RAW_TRANSACTIONS, days)
    assert counted is not None
    names = counted["user_id"].value_counts().to_pylist()
    user, other = [each["values"] for each in sorted(names, key=lambda each: -each["counts"])[:2]]
    with redis.Redis.from_url(redis_url) as client:
        for view in VIEWS:
            load_snapshot_direct(client, lake, view, days[-1], now=lambda: NOW_US, ttl_seconds=9_999)
        warm_velocity(settings, lake, client, days[-1], now_us=NOW_US)
        decided = _decisions(user, other)
        for one in decided:
            client.set(decision_key(one.caller, one.request.transaction_id), encode_record(one))
    try:
        with psycopg.connect(ensure_postgres(settings)) as connection:
            connection.execute(
                f'CREATE TABLE "{cold_table(PROJECT, USER_VECTOR)}" (entity_key BYTEA, feature_name TEXT, '
                "value BYTEA, event_ts TIMESTAMPTZ, PRIMARY KEY (entity_key, feature_name))"
            )
            write_cold(connection, PROJECT, USER_VECTOR, packed_snapshot(lake, USER_VECTOR, days[-1]))
        writer = SpoolWriter(settings.home, "1-1")
        append(writer, *decided)
        writer.close()
        yield World(settings, lake, days, user, other)
    finally:
        stop_postgres(settings)


def _decisions(user: str, other: str) -> list[Any]:
    made = []
    for number, name in enumerate((user, other)):
        request = msgspec.structs.replace(record().request, user_id=name, transaction_id=f"live-{number}")
        made.append(record(request=request, decision_id=f"{number:032x}", received_at=NOW_US))
    return made


def test_nothing_names_the_user_any_more_and_everybody_else_is_as_before(world: World) -> None:
    lake, days, user = world.lake, world.days, world.user
    merchants = [lake.read(tables.MERCHANT_FEATURES, day) for day in days]
    raw = [lake.read(tables.RAW_TRANSACTIONS, day) for day in days]
    others = look(world.settings, world.other, plainly=False)

    done = erase(world.settings, user, who="test", now=NOW)

    before = {store.name: store.count for store in done.before.stores}
    for name in ("raw_transactions", "user_tiles", "merchant_tiles", "user_features", "training_set", "PostgreSQL",
                 "Redis, packed row", "Redis, velocity, identities", "Redis, decisions", "spool"):  # fmt: skip
        assert before[name] > 0, name
    assert {store.name: store.count for store in done.after.stores if store.count} == {}
    assert not any(user.encode() in Path(path).read_bytes() for path in segments(world.settings.home))
    (logged,) = [one for one in LogTable(lake).records(NOW.date()) if one.request.transaction_id == "live-0"]
    assert logged.request.user_id == done.pseudonym

    # another user's counts are what they were, but for the decision that is in the lake now and not in the spool
    now = {store.name: store.count for store in look(world.settings, world.other, plainly=False).stores}
    moved = {"spool", "inference_log"}
    expected = {store.name: store.count for store in others.stores if store.name not in moved}
    assert {name: count for name, count in now.items() if name not in moved} == expected
    assert now["inference_log"] == 1

    # sums over the same rows: merchants' features as they stand, and built again of what is left
    assert [lake.read(tables.MERCHANT_FEATURES, day) for day in days] == merchants
    tiles = [lake.read(tables.MERCHANT_TILES, day) for day in days]
    write_merchant_tiles(world.settings, lake, days)
    write_merchant_features(world.settings, lake, days)
    assert [lake.read(tables.MERCHANT_TILES, day) for day in days] == tiles
    assert [lake.read(tables.MERCHANT_FEATURES, day) for day in days] == merchants
    for old, new in zip(raw, (lake.read(tables.RAW_TRANSACTIONS, day) for day in days), strict=True):
        theirs = np.array(old["user_id"]) == user
        assert new.filter(pa.array(~theirs)) == old.filter(pa.array(~theirs))
        gone = new.filter(pa.array(theirs))
        assert set(gone["user_id"].to_pylist()) <= {done.pseudonym}
        for name in ("device_id", "device_key", "latitude", "longitude"):
            assert gone[name].null_count == gone.num_rows
        for name in ("transaction_id", "merchant_id", "amount", "event_time", "country", "is_duplicate"):
            assert gone[name] == old.filter(pa.array(theirs))[name]


def test_every_spelling_of_the_identifier_is_found_whichever_is_asked_for(world: World) -> None:
    """Rows of before the rule of identity bear identifiers as they were sent."""
    settings, decomposed = world.settings, unicodedata.normalize("NFD", "Zoë-Kart-7")
    spellings = ["Zoë-Kart-7", decomposed, "Zoë-Kart-7 ", "Zoë\u200b-Kart-7"]
    writer = SpoolWriter(settings.home, "1-2")
    with redis.Redis.from_url(str(settings.redis_url)) as client:
        for number, spelled in enumerate(spellings):
            request = msgspec.structs.replace(record().request, user_id=spelled, transaction_id=f"spelled-{number}")
            one = record(request=request, decision_id=f"{100 + number:032x}", received_at=NOW_US)
            append(writer, one)
            client.set(decision_key(one.caller, one.request.transaction_id), encode_record(one))
            client.set(b"fraud:{user:%b}:any" % spelled.encode(), b"1")
    writer.close()
    change = {"why": "a mule", "block_list_add": [{"kind": "user", "value": spellings[2]}]}
    change_policy(settings, parse_change(json.dumps(change).encode()), "ann", NOW)

    done = erase(settings, decomposed, who="test", now=NOW)

    before = {store.name: store.count for store in done.before.stores}
    assert (before["spool"], before["Redis, decisions"], before["Redis, velocity, identities"]) == (4, 4, 4)
    assert before["policy"] > 0
    assert {store.name: store.count for store in done.after.stores if store.count} == {}
    assert look(settings, spellings[3]).total == 0
    logged = [one for one in LogTable(world.lake).records(NOW.date()) if one.request.transaction_id.startswith("spell")]
    assert len(logged) == 4
    assert all(one.request.user_id.startswith("erased-") for one in logged)


@pytest.mark.parametrize("until", [datetime(2026, 12, 24, tzinfo=UTC), NOW], ids=["listed", "run out"])
def test_the_policy_lists_the_user_no_more_and_every_version_and_line_bears_the_pseudonym(
    world: World, until: datetime
) -> None:
    settings, user, other = world.settings, world.user, world.other
    past = datetime(2026, 11, 24, tzinfo=UTC)

    def changed(at: datetime, **fields: Any) -> PolicyRecord:
        return change_policy(settings, msgspec.convert(fields, PolicyChange), "somebody", at)

    def listing(name: str, until: datetime | None = None) -> dict[str, Any]:
        return {"kind": "user", "value": name, "until": until}

    changed(past, why="two of them", block_list_add=[listing(user), listing(other), listing(user) | {"kind": "device"}])
    before = changed(past, why=f"{user} is a mule, {user}0 is not", block_list_add=[listing(user, until)])
    others = look(settings, other)

    done = erase(settings, user, who="test", now=NOW)

    counted = {store.name: store.count for store in done.before.stores}
    assert (counted["policy"], counted["ledger"]) == (3, 2)
    assert {store.name: store.count for store in done.after.stores if store.count} == {}
    # a new version says who is listed now; the one before says what it said, of the pseudonym
    record = read_policy(settings.home)
    assert record is not None
    assert record.version == before.version + 1
    assert [(entry.kind, entry.value) for entry in record.block_list] == [("user", other), ("device", user)]
    kept = read_policy(settings.home, before.version)
    assert kept is not None
    assert [entry.value for entry in kept.block_list] == [done.pseudonym, other, user]
    assert kept.block_list[0].why == f"{done.pseudonym} is a mule, {user}0 is not"
    assert {store.name: store.count for store in look(settings, other).stores}["policy"] > 0
    assert {store.name: store.count for store in others.stores}["ledger"] == 1
    (line,) = [
        line for line in read_ledger(settings.home) if line["what"] == "policy" and line["why"] == "a user is erased"
    ]
    assert [entry["value"] for entry in line["from"]["block_list"]] == [done.pseudonym]
    assert (line["who"], line["to"]["version"], line["to"]["block_list"]) == ("test", record.version, [])


def test_an_import_ends_in_the_very_rows_that_the_erasure_left(world: World) -> None:
    erase(world.settings, world.user, who="test", now=NOW)
    lake, days = world.lake, world.days
    left = {table: [lake.read(table, day) for day in days] for table in (tables.RAW_TRANSACTIONS, tables.USER_TILES)}
    features = [lake.read(tables.USER_FEATURES, day)["user_id"] for day in days]
    _, source = fix_dataset(world.settings, lake, NOW)
    ingest_transactions(lake, source, days, world.settings.base_currency)
    write_user_tiles(world.settings, lake, days)
    write_user_features(world.settings, lake, days)
    for table, parts in left.items():
        assert [lake.read(table, day) for day in days] == parts, table
    assert [lake.read(tables.USER_FEATURES, day)["user_id"] for day in days] == features
    assert look(world.settings, world.user).total == 0


def test_a_killed_erasure_is_completed_by_the_next_and_the_ledger_says_so(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    written = []
    original = Lake.write_bytes

    def dies(self: Lake, path: str, payload: bytes) -> None:
        if len(written) == 5:
            raise Killed
        if path.endswith(".parquet"):
            written.append(path)
        original(self, path, payload)

    monkeypatch.setattr(files.Lake, "write_bytes", dies)
    with pytest.raises(Killed):
        erase(world.settings, world.user, who="test", now=NOW)
    monkeypatch.undo()
    assert look(world.settings, world.user).total > 0
    done = erase(world.settings, world.user, who="test", now=NOW)
    assert done.after.total == 0
    entries = [entry for entry in read_ledger(world.settings.home) if entry["what"] == "erase"]
    assert [entry["to"]["state"] for entry in entries] == ["begun", "begun", "done"]
    assert {entry["to"]["user"] for entry in entries} == {done.pseudonym}
    ledger = (world.settings.home / "releases" / "ledger.jsonl").read_text()
    assert world.user not in ledger


def test_the_command_says_first_and_does_then_and_fails_while_something_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str, code: int) -> str:
        environment = {
            "FRAUD_HOME": str(world.settings.home), "FRAUD_REDIS_URL": str(world.settings.redis_url),
            "COLUMNS": "160", "NO_COLOR": "1",
        }  # fmt: skip
        result = CliRunner().invoke(app, ["erase", "--user", world.user, *arguments], env=environment)
        assert result.exit_code == code, result.output
        return result.output

    assert "Would be done" in said(code=0)
    untouched = look(world.settings, world.user)
    assert untouched.total > 0
    told = json.loads(said("--json", code=0).split("\n", 1)[1])
    assert (told["done"], told["pseudonym"], told["after"]) == (False, None, None)
    assert told["before"]["total"] == sum(store["count"] for store in told["before"]["stores"]) > 0
    stray = world.settings.home / "log" / "stray.log"
    stray.parent.mkdir(exist_ok=True)
    stray.write_text(f"somebody wrote {world.user} here")
    text = said("--yes", code=1)
    assert str(stray) in text.replace("\n", "")
    assert "still named 1 time(s)" in text
    stray.unlink()
    assert "Done" in said("--yes", code=0)
    assert json.dumps(world.user) not in said(code=0)
