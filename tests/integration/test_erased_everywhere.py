"""A person who stands everywhere is erased; whoever looks without the remover's rules finds nothing, or what was named.

The person gets into every store by the platform's own ways: a history with lines that are no rows, decisions, comments,
the policy, a backup; beside them stand what no code of the platform wrote, in databases and compressed files.
"""

import gzip
import json
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pyarrow.parquet as pq
import pytest
import redis
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.policy_change import PolicyChange, change_policy
from fraud_platform.decision.policy_record import read_policy
from fraud_platform.erasure import erase as erasing
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.suppression import WithoutErased, read_suppression, suppress, suppression_path
from fraud_platform.features import tables
from fraud_platform.history import build_history
from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.spool import SpoolWriter
from fraud_platform.ingest.feedback import FeedbackLabel, FeedbackWriter, read_feedback
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.ingest.steps import ingest_transactions
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.ledger import read_ledger
from fraud_platform.online.cold_writer import cold_table, write_cold
from fraud_platform.online.decision_key import decision_key
from fraud_platform.online.embedded_postgres import ensure_postgres, stop_postgres
from fraud_platform.online.embedded_redis import ensure_redis, stop_redis
from fraud_platform.online.packed import PROJECT, USER_VECTOR, VIEWS
from fraud_platform.online.snapshot_load import load_snapshot_direct, packed_snapshot
from fraud_platform.online.warm import warm_velocity
from fraud_platform.recovery.backup import BackupError, backup, restore
from fraud_platform.regions.publish import Publisher
from fraud_platform.settings import Settings
from tests.person_finder import Finder, Sighting
from tests.record_kit import append, record

PERSON, OTHER = "70411234", "70411235"
DECOYS = ("704112340", "170411234", "x-70411234")
OWN, SHARED = "phone-of-one", "phone-of-two"
NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
NOW_US = int(NOW.timestamp() * 1e6)
JSON_DAYS = [date(2026, 11, 10), date(2026, 11, 11)]

CSV = """id,customer,shop,amount,at,country,device,fraud
1,70411234,s-1,12.50,2026-11-20T08:00:00Z,DE,phone-of-one,0
2,70411234,s-2,80,2026-11-21T08:00:00Z,DE,phone-of-two,1
3,70411234.0,s-1,7,2026-11-22T08:00:00Z,DE,phone-of-one,0
4,7.0411234e7,s-1,7,2026-11-22T09:00:00Z,DE,,0
5,70411235,s-1,9,2026-11-20T09:00:00Z,DE,phone-of-two,0
6,704112340,s-2,9,2026-11-21T09:00:00Z,DE,phone-of-one-too,0
7,170411234,s-2,9,2026-11-22T10:00:00Z,DE,,0
8,x-70411234,s-2,9,2026-11-22T10:01:00Z,DE,,0
9,70411234.0,s-1,much,2026-11-21T10:00:00Z,DE,phone-of-one,0
10,,s-1,5,2026-11-21T11:00:00Z,DE,phone-of-one,0
11,70411234,cut
12,704112340,cut
13,phone-of-one,cut
14,70411235,s-1,5,2026-11-22T11:00:00Z,DE,,0,one field too many: 70411234
15,70411235,s-1,5,2026-11-22T11:30:00Z,DE,,0
16,704\u200b11234,s-1,much,2026-11-21T10:00:00Z,DE,,0
17,70\u200b4\u20601\u200d1\u00ad2\ufeff34,cut
18,70411235,s-1,5,2026-11-22T11:00:00Z,DE,,0,one field too many: 7.04\u200b11234e7
19,704\u200b112340,cut
"""
CSV_MAPPING = """
path: {path}
name: payments
currency: EUR
columns: {transaction_id: id, user_id: customer, merchant_id: shop, amount: amount, timestamp: at, country: country,
  device_id: device}
label: {column: fraud, arrives_after_days: 1}
"""
LINES = [
    '{"id": "j1", "customer": "70411235", "amount": "3", "at": "2026-11-10T08:00:00Z"}',
    '{"id": "j2", "customer": 70411234.0, "amount": "x", "at": "2026-11-10T08:00:00Z"}',
    '{"id": "j3", "customer": "70411234", "amount": "3", "at": "2026-1',
    '{"id": "j4", "customer": "704112340", "amount": "3", "at": "2026-1',
    '{"id": "j5", "customer": "70411235", "amount": "x", "at": "2026-11-11T08:00:00Z", "memo": "for 70411234, thanks"}',
    '{"id": "j6", "customer": "70411235", "amount": "x", "at": "2026-11-11T08:00:00Z", "memo": "for 704112340"}',
    '{"id": "j7", "customer": "7041\\u200b1234", "amount": "3", "at": "2026-1',
    '{"id": "j8", "customer": "70411235", "amount": "x", "at": "2026-11-11T08:00:00Z", "memo": "7041\u200b1234"}',
]
JSON_MAPPING = """
path: {path}
name: lines
currency: EUR
columns: {transaction_id: id, user_id: customer, amount: amount, timestamp: at}
"""


@dataclass
class World:
    settings: Settings
    folder: Path
    lake: Lake

    def sightings(self, *others: Path, under_way: bool = False) -> list[Sighting]:
        """under_way: an erasure is not complete, and keeps a file of what it knows, which it names."""
        finder = Finder(PERSON, [OWN], [*DECOYS, f"{OWN}-too"])
        settings = self.settings
        found = finder.everywhere(
            settings.home, settings.lake, ensure_redis(settings), ensure_postgres(settings), *others
        )
        kept = [seen for seen in found if seen.place.endswith(".underway.json")]
        assert bool(kept) == under_way
        return [seen for seen in found if seen not in kept]

    def erase(self, *arguments: str) -> tuple[int, str]:
        environment = {
            "FRAUD_HOME": str(self.settings.home),
            "FRAUD_POSTGRES_URL": ensure_postgres(self.settings), "COLUMNS": "240", "NO_COLOR": "1",
        }  # fmt: skip
        result = CliRunner().invoke(app, ["erase", "--user", PERSON, *arguments], env=environment)
        return result.exit_code, re.sub(r"\s+", " ", result.output)


def pseudonym(output: str) -> str:
    found = re.search(r"erased-[0-9a-f]{24}", output)
    assert found is not None
    return found[0]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two histories imported into one home, by mapping files that lie outside of it."""
    folder = tmp_path_factory.mktemp("everywhere")
    (folder / "payments.csv").write_text(CSV)
    (folder / "lines.jsonl").write_text("\n".join(LINES) + "\n")
    for name, mapping, path in (("csv", CSV_MAPPING, "payments.csv"), ("json", JSON_MAPPING, "lines.jsonl")):
        (folder / f"{name}.yaml").write_text(mapping.replace("{path}", str(folder / path)))
    import_again(settings := Settings(home=folder / "home", mapping=folder / "csv.yaml"))
    build_history(settings, open_lake(settings), NOW)
    return folder


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests of this file: an empty database is the slowest to make of all."""
    settings = Settings(home=tmp_path_factory.mktemp("postgres"))
    try:
        yield ensure_postgres(settings)
    finally:
        stop_postgres(settings)


def import_again(settings: Settings) -> None:
    """What an import of the second history does: the cache of its rows, its days in the lake."""
    assert settings.mapping is not None
    source = WithoutErased(MappedSource.open(settings.mapping.parent / "json.yaml", settings), settings.home)
    ingest_transactions(open_lake(settings), source, JSON_DAYS, "EUR")


@pytest.fixture
def world(history: Path, postgres: str, tmp_path: Path, make_settings: Callable[..., Settings]) -> Iterator[World]:
    """The history in every store, and everything else that people and callers have said of the person."""
    settings = make_settings(mapping=history / "csv.yaml", postgres_url=postgres)
    shutil.copytree(history / "home", settings.home)
    lake = open_lake(settings)
    day = lake.days(tables.TRAINING_SET)[-1]
    try:
        with redis.Redis.from_url(ensure_redis(settings)) as client:
            for view in VIEWS:
                load_snapshot_direct(client, lake, view, day, now=lambda: NOW_US, ttl_seconds=9_999)
            warm_velocity(settings, lake, client, day, now_us=NOW_US)
            for one in decisions():
                client.set(decision_key(one.caller, one.request.transaction_id), encode_record(one))
        with psycopg.connect(postgres) as connection:
            connection.execute(f'DROP TABLE IF EXISTS "{cold_table(PROJECT, USER_VECTOR)}"')
            connection.execute(
                f'CREATE TABLE "{cold_table(PROJECT, USER_VECTOR)}" (entity_key BYTEA, feature_name TEXT, '
                "value BYTEA, event_ts TIMESTAMPTZ, PRIMARY KEY (entity_key, feature_name))"
            )
            write_cold(connection, PROJECT, USER_VECTOR, packed_snapshot(lake, USER_VECTOR, day))
        (settings.home / "feast" / "online_source").mkdir(parents=True)
        source = settings.home / "feast" / "online_source" / "user_vector.parquet"
        pq.write_table(packed_snapshot(lake, USER_VECTOR, day), source)
        writer = SpoolWriter(settings.home, "1-1")
        append(writer, *decisions())
        writer.close()
        comment(settings.home)
        policy(settings)
        Publisher(settings, lake).step(NOW)
        yield World(settings, tmp_path, lake)
    finally:
        stop_redis(settings)


def decisions() -> list[Any]:
    """The person's own, of which one from a device that no table knows yet; another's that says whom it is for."""
    told = [
        {"user_id": PERSON, "device_id": OWN}, {"user_id": PERSON, "device_id": SHARED},
        {"user_id": OTHER, "device_id": SHARED, "merchant_category": f"gift for {PERSON}"},
        {"user_id": DECOYS[0], "device_id": f"{OWN}-too"},
    ]  # fmt: skip
    return [
        record(
            request=msgspec.structs.replace(record().request, transaction_id=f"live-{number}", **fields),
            decision_id=f"{number:032x}",
            received_at=NOW_US,
        )
        for number, fields in enumerate(told)
    ]


COMMENTS = {
    "1": "called, is angry",
    "5": f'the card of {PERSON} too, {DECOYS[0]} knows nothing, "{PERSON}" says so of {OWN}',
    "6": f"nothing to do with {DECOYS[0]}",
}


def comment(home: Path) -> None:
    writer = FeedbackWriter(home, "1-1")
    for transaction_id, text in COMMENTS.items():
        label = FeedbackLabel(
            feedback_id=transaction_id, caller="default", transaction_id=transaction_id,
            transaction_date=date(2026, 11, 20), arrived_at=NOW_US, source="customer", revision=1,
            state="confirmed", comment=text,
        )  # fmt: skip
        writer.append(label)
    writer.close()


def policy(settings: Settings) -> None:
    def listing(kind: str, value: str) -> dict[str, str]:
        return {"kind": kind, "value": value}

    for why, listed in (
        (f"{PERSON} is a mule with {OWN}", [listing("user", PERSON), listing("device", OWN)]),
        ("two people", [listing("device", SHARED), listing("device", f"{OWN}-too"), listing("user", DECOYS[0])]),
    ):
        change_policy(settings, msgspec.convert({"why": why, "block_list_add": listed}, PolicyChange), "somebody", NOW)


def strays(home: Path) -> list[Path]:
    """What nobody expects to name a person: databases and files of others' programs."""
    database, artifact, events = home / "mlflow" / "mlflow.db", home / "mlflow" / "a" / "shap.csv.gz", home / "dagster"
    artifact.parent.mkdir(parents=True)
    artifact.write_bytes(gzip.compress(f"user_id,shap\n{PERSON},0.5\n".encode()))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE tags (run TEXT, n INTEGER, value TEXT)")
        connection.execute("INSERT INTO tags VALUES ('a', 7, ?)", (f"example: {PERSON}",))
    events.mkdir()
    with closing(sqlite3.connect(events / "runs.db")) as connection, connection:
        connection.execute("CREATE TABLE event_logs (id INTEGER, event BLOB)")
        connection.execute("INSERT INTO event_logs VALUES (1, ?)", (json.dumps({"user": int(PERSON)}).encode(),))
    return [database, artifact, events / "runs.db"]


def test_a_person_is_nowhere_after_an_erasure_and_whoever_shares_a_thing_with_them_keeps_it(world: World) -> None:
    kept = world.folder / "backup"
    backup(world.settings, kept, NOW)
    before = {str(each).split(":")[0] for each in world.sightings(kept)}
    for place in ("imports/payments", "imports/lines", "quarantine/", "raw_transactions/", "feedback/", "policy/",
                  "ledger.jsonl", "in_force.json", "feast/", "inference_log/", "Redis, ", "redis/appendonly",
                  "PostgreSQL, ", "backup/home/releases", "backup/home/feedback", "backup/lake-records"):  # fmt: skip
        assert any(place in each for each in before), (place, before)

    code, text = world.erase("--yes")
    assert [str(each) for each in world.sightings(under_way=True)] == []
    # what lies outside of the home is named, with what to do
    assert code == 1, text
    assert f"--backup {kept}" in text
    assert ".underway.json: what this erasure has to know" in text
    code, text = world.erase("--yes", "--backup", str(kept))
    assert (code, [str(each) for each in world.sightings(kept)]) == (0, []), text

    # a backup is whole again, and knows who was erased
    assert restore(world.settings, kept, dry_run=True, overwrite=True) is not None
    assert (kept / "home" / "erasure" / "suppressed.json").exists()

    moved = kept.rename(world.folder / "moved")
    code, text = world.erase()
    assert f"is not in {kept} any more: if it was moved, name it with --backup" in text
    assert f"backup {moved}" not in text

    # others keep what is theirs
    found = Finder(DECOYS[0], [f"{OWN}-too"]).folder(world.settings.home)
    places = {str(each).split(":")[0] for each in found}
    for place in ("imports/payments", "imports/lines", "quarantine/", "raw_transactions/", "feedback/", "policy/"):
        assert any(place in each for each in places), place
    record = read_policy(world.settings.home)
    assert record is not None
    assert {(entry.kind, entry.value) for entry in record.block_list} == {
        ("device", SHARED), ("device", f"{OWN}-too"), ("user", DECOYS[0]),
    }  # fmt: skip
    rows = [row for day in world.lake.days(tables.RAW_TRANSACTIONS)
            for row in world.lake.read(tables.RAW_TRANSACTIONS, day).to_pylist()]  # fmt: skip
    devices = {row["transaction_id"]: (row["user_id"], row["device_id"]) for row in rows}
    assert devices["5"] == (OTHER, SHARED)
    assert devices["6"] == (DECOYS[0], f"{OWN}-too")
    assert devices["2"][1] is None
    # spellings are no accounts of one name: each keeps rows of its own
    assert len({devices[name][0] for name in ("1", "2", "3", "4")}) == 3
    said = {label.transaction_id: label.comment for label in read_feedback(world.settings.home, NOW.date())}
    assert said["6"] == COMMENTS["6"]
    assert said["5"] == COMMENTS["5"].replace(PERSON, "\0").replace("\0" + "0", DECOYS[0]).replace(
        "\0", "-" * len(PERSON)
    ).replace(OWN, "-" * len(OWN))
    assert set(said["1"] or "") == {"-"}


def test_what_cannot_be_taken_out_is_named_one_by_one_with_what_to_do(world: World) -> None:
    paths = strays(world.settings.home)
    code, text = world.erase("--yes")
    assert code == 1
    for path in paths:
        assert str(path.relative_to(world.settings.home)) in text
    assert "table tags" in text
    assert "table event_logs" in text
    # and nothing else is left
    left = {str(each).split(":")[0].split(",")[0].split("[")[0] for each in world.sightings(under_way=True)}
    assert left == {path.relative_to(world.settings.home.parent).as_posix() for path in paths}
    for path in paths:
        path.unlink()
    code, text = world.erase("--yes")
    assert (code, world.sightings()) == (0, []), text
    # a line that was altered says by whom and when, any other does not
    lines = read_ledger(world.settings.home)
    assert [line["why"] for line in lines if "redacted" in line] == [
        f"{pseudonym(text)} is a mule with {pseudonym(text)}"
    ]


def test_an_import_of_the_same_files_brings_the_person_back_in_no_line_however_broken(world: World) -> None:
    code, text = world.erase("--yes")
    assert code == 0, text
    shutil.rmtree(world.settings.home / "imports")
    shutil.rmtree(world.settings.home / "lake")
    import_again(world.settings)
    build_history(world.settings, open_lake(world.settings), NOW)
    assert [str(each) for each in world.sightings()] == []
    texts = [row["row"] for day in world.lake.days(tables.QUARANTINE)
             for row in world.lake.read(tables.QUARANTINE, day).to_pylist()]  # fmt: skip
    assert any(DECOYS[0] in text for text in texts)


def test_an_erasure_that_was_killed_or_saw_nothing_is_found_out_and_completed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def dies(*_: Any) -> None:
        raise Killed

    # rows have lost the device by then, and no row tells any more whose it was
    monkeypatch.setattr(erasing.home, "blank_comments", dies)
    with pytest.raises(Killed):
        erasing.erase(world.settings, PERSON, who="test", now=NOW)
    monkeypatch.undo()
    assert any("feedback/" in seen.place for seen in world.sightings(under_way=True))

    # what takes out and what counts are blind alike: the look afterwards is not
    with monkeypatch.context() as blind:
        blind.setattr(erasing.home, "comments", lambda *_: iter(()))
        blind.setattr(erasing.policies, "count_lists", lambda *_: 0)
        code, text = world.erase("--yes")
    assert code == 1
    assert re.search(r"feedback/arrived=\S+\.jsonl: ", text)

    code, text = world.erase("--yes")
    assert (code, [str(each) for each in world.sightings()]) == (0, []), text


def test_a_backup_whose_erasure_was_killed_is_refused_until_another_has_completed_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = world.folder / "backup"
    backup(world.settings, kept, NOW)

    class Killed(BaseException):
        pass

    def dies(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(erasing.kept.files, "blank_comments", lambda home, *rest: dies() if home != kept else None)
    with pytest.raises(Killed):
        erasing.kept.take_out(*taken_out(world, kept))
    monkeypatch.undo()
    with pytest.raises(BackupError, match="was not completed: run `erase --yes --backup"):
        restore(world.settings, kept, dry_run=True)
    erasing.kept.take_out(*taken_out(world, kept))
    restored = world.settings.model_copy(update={"home": world.folder / "restored", "lake_url": None})
    assert len(restore(restored, kept)) > 5
    places = {seen.place for seen in Finder(PERSON, [OWN], [*DECOYS, f"{OWN}-too"]).folder(world.folder / "restored")}
    assert places == set()

    other = read_suppression(kept / "home")
    assert other is not None
    stranger = msgspec.structs.replace(other, key="0" * 64)
    suppression_path(kept / "home").write_bytes(msgspec.json.encode(stranger))
    with pytest.raises(BackupError, match="a backup of another home"):
        erasing.kept.take_out(*taken_out(world, kept))
    suppression_path(kept / "home").write_bytes(msgspec.json.format(msgspec.json.encode(other), indent=2))

    # a file that somebody else has altered is not made good by an erasure
    (kept / "home" / "policy" / "1.json").write_text("{}")
    with pytest.raises(BackupError, match=r"1\.json was altered after the backup"):
        erasing.kept.take_out(*taken_out(world, kept))


def taken_out(world: World, folder: Path) -> tuple[Any, ...]:
    names = Names(PERSON, devices=frozenset({OWN}))
    return world.settings.home, folder, {"1"}, names, suppress(world.settings.home, names, NOW_US), "test", NOW
