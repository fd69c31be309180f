"""A backup holds what was there, is whole or none, and puts back what is missing and nothing else."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.homes import begin_home
from fraud_platform.inference_log.record import encode_record
from fraud_platform.inference_log.table import TABLE, LogTable, rows
from fraud_platform.lake import open_lake
from fraud_platform.model.ledger import Change, append_change, read_ledger
from fraud_platform.recovery.backup import BackupError, backup, restore
from fraud_platform.recovery.copied import DrillError, copied
from fraud_platform.settings import Settings
from tests.record_kit import DAY, record

NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)


@pytest.fixture
def home(settings: Settings) -> Settings:
    """A home with a ledger, a key, a database that is being written, and a record in the lake."""
    (settings.home / "mlflow").mkdir(parents=True)
    with closing(sqlite3.connect(settings.home / "mlflow" / "mlflow.db")) as database:
        database.execute("CREATE TABLE t (n)")
        database.execute("INSERT INTO t VALUES (1)")
        database.commit()
    append_change(settings.home, Change(at=NOW, who="a", why="b", to="fraud-detector-1"))
    add_key(keys_path(settings.home), "caller", ["decide"], NOW)
    open_lake(settings).write_record("dataset", {"first_day": "2026-11-01"})
    return settings


def test_what_is_missing_comes_back_and_what_is_there_stays(home: Settings, tmp_path: Path) -> None:
    before = read_ledger(home.home)
    writing = sqlite3.connect(home.home / "mlflow" / "mlflow.db")
    writing.execute("INSERT INTO t VALUES (2)")  # not committed: not of the backup
    kept = backup(home, tmp_path / "kept", NOW)
    writing.close()
    assert kept.files == 4
    (home.home / "releases" / "ledger.jsonl").unlink()
    (home.home / "mlflow" / "mlflow.db").unlink()
    (home.home / "lake" / "dataset.json").unlink()
    keys = keys_path(home.home)
    keys.write_text("changed since")
    names = ["home/mlflow/mlflow.db", "home/releases/ledger.jsonl", "lake-records/dataset.json"]
    assert restore(home, tmp_path / "kept", dry_run=True) == names
    assert read_ledger(home.home) == []
    assert restore(home, tmp_path / "kept") == names
    assert read_ledger(home.home) == before
    assert open_lake(home).read_record("dataset") == {"first_day": "2026-11-01"}
    with closing(sqlite3.connect(home.home / "mlflow" / "mlflow.db")) as database:
        assert database.execute("SELECT n FROM t").fetchall() == [(1,)]
    assert keys.read_text() == "changed since"
    assert restore(home, tmp_path / "kept", overwrite=True) == ["home/access/keys.json"]
    assert json.loads(keys.read_text())["keys"][0]["caller"] == "caller"


def test_a_backup_that_was_altered_or_cut_short_puts_back_nothing(home: Settings, tmp_path: Path) -> None:
    backup(home, tmp_path / "kept", NOW)
    (home.home / "releases" / "ledger.jsonl").unlink()
    altered = tmp_path / "kept" / "lake-records" / "dataset.json"
    whole = altered.read_bytes()
    altered.write_text("{}")
    with pytest.raises(BackupError, match=r"dataset\.json differs from what was backed up"):
        restore(home, tmp_path / "kept")
    altered.unlink()
    with pytest.raises(BackupError, match=r"lacks lake-records/dataset\.json"):
        restore(home, tmp_path / "kept")
    altered.write_bytes(whole)
    (tmp_path / "kept" / "manifest.json").unlink()
    with pytest.raises(BackupError, match="not a complete backup"):
        restore(home, tmp_path / "kept")
    assert read_ledger(home.home) == []


def test_a_backup_goes_to_a_folder_of_its_own_outside_the_home(home: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="lies inside the home"):
        backup(home, home.home / "kept", NOW)
    (tmp_path / "there").mkdir()
    with pytest.raises(BackupError, match="exists"):
        backup(home, tmp_path / "there", NOW)


def test_a_log_that_lost_its_commit_record_keeps_every_decision(settings: Settings) -> None:
    lake = open_lake(settings)
    table = LogTable(lake)
    for number in range(3):
        one = record(f"t-{number}", decision_id=f"{number:032x}")
        table.commit(rows([(one, encode_record(one))]), {"broker": {"0": str(number)}})
    before = table.read(DAY)
    Path(settings.lake, TABLE, "committed.json").unlink()
    assert (table.committed().number, table.committed().sources) == (0, {})  # the broker is read anew
    two = record("t-9", decision_id="9" * 32)
    table.commit(rows([(two, encode_record(two))]), {})
    # the same number again is no file of the same name
    assert table.read(DAY).num_rows == before.num_rows + 1


def test_every_change_of_a_key_is_a_line_of_the_ledger_that_tells_no_key(tmp_path: Path) -> None:
    home = tmp_path / "home"
    begin_home(home)

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments], env={"FRAUD_HOME": str(home)})
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    token = said("add", "shop", "--scope", "decide", "--scope", "admin")
    key_id = token.split("_")[1]
    said("revoke", key_id, "--wait", "0")
    said("revoke", key_id, "--wait", "0")
    entries = [entry for entry in read_ledger(home) if entry["what"] == "key"]
    standing = {"id": key_id, "caller": "shop", "scopes": ["decide", "admin"]}
    assert [(entry["from"], entry["to"]) for entry in entries] == [
        (None, standing | {"state": "valid"}),
        (standing | {"state": "valid"}, standing | {"state": "revoked"}),
    ]
    assert all(entry["who"].endswith("by hand") for entry in entries)
    ledger = (home / "releases" / "ledger.jsonl").read_text()
    assert token not in ledger
    assert token.split("_", 2)[2] not in ledger


def test_a_copy_of_a_home_shares_nothing_that_either_can_change(home: Settings, tmp_path: Path) -> None:
    lake = open_lake(home)
    one = record()
    LogTable(lake).commit(rows([(one, encode_record(one))]), {})
    (home.home / "redis").mkdir()
    copy = copied(
        home.model_copy(update={"redis_url": "redis://live:6379/0", "kafka_bootstrap": "live:9092"}), tmp_path / "c"
    )
    assert (copy.redis_url, copy.postgres_url, copy.kafka_bootstrap) == (None, None, None)
    assert not (copy.home / "redis").exists()
    assert read_ledger(copy.home) == read_ledger(home.home)
    # what the copy writes, the live home does not see
    theirs = open_lake(copy)
    two = record("t-2", decision_id="2" * 32)
    LogTable(theirs).commit(rows([(two, encode_record(two))]), {})
    LogTable(theirs).merge(DAY)
    theirs.write_record("dataset", {"first_day": "other"})
    append_change(copy.home, Change(at=NOW, who="drill", why="drill", to="fraud-detector-2"))
    assert LogTable(lake).log_keys(DAY) == {one.decision_id}
    assert lake.read_record("dataset") == {"first_day": "2026-11-01"}
    assert len(read_ledger(home.home)) == 1
    with pytest.raises(DrillError, match="exists"):
        copied(home, tmp_path / "c")
