"""What data starts: a training when enough frauds have matured, days built anew when files have come or changed."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from assets.definitions import build_definitions
from assets.resources import Platform
from assets.sensing import FILES_TAG, RETRAIN_TAG
from fraud_platform import schema
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.gaps import daily_tables
from fraud_platform.features.label_rules import DistrustFile, distrust, trust
from fraud_platform.features.tiles import LABEL_TILE
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.settings import Settings
from tests.monitoring_kit import HOLDOUT, release_with_holdout, write_labels

LIMIT = 20
FIRST = "fraud-detector-1-matured"
RELEASED_TO = HOLDOUT[-1]
"""The champion's data end here; whatever matures later is new."""

MAPPING = """\
path: {folder}/payments-*.csv
currency: EUR
columns: {{transaction_id: nr, user_id: kunde, amount: betrag, timestamp: zeit}}
label: {{column: betrug, arrives_after_days: 1}}
"""


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def tick(
    settings: Settings, instance: dg.DagsterInstance, cursor: str | None, name: str
) -> tuple[list[dg.RunRequest], str | None, str]:
    """Requests, the cursor afterwards, and what was said."""
    repository = build_definitions(settings, datetime.now(UTC)).get_repository_def()
    with dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository) as context:
        result = repository.get_sensor_def(name).evaluate_tick(context)
    return list(result.run_requests or []), result.cursor or cursor, result.skip_message or ""


def end_run(instance: dg.DagsterInstance, request: dg.RunRequest, status: dg.DagsterRunStatus) -> None:
    instance.add_run(dg.DagsterRun(job_name="any", tags=request.tags, status=status))


# ---- matured labels


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    values = {
        "home": tmp_path, "history_start": HOLDOUT[0], "label_maturity_days": 3, "matured_labels_retrain": LIMIT
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(value))
    return Settings()


@pytest.fixture
def lake(settings: Settings) -> Lake:
    lake = open_lake(settings)
    release_with_holdout(settings.home, lake, rows_per_day=50)
    return lake


def labels_come(lake: Lake, instance: dg.DagsterInstance, day: date, frauds: int, of: date) -> None:
    """A day of labels, and Dagster told of it; the days since the last one have none."""
    held = lake.days(tables.FRAUD_LABELS)
    for quiet in days_between(held[-1] + timedelta(days=1), day - timedelta(days=1)) if held else []:
        write_labels(lake, quiet, [], of)
    write_labels(lake, day, [f"{of}-{day}-{n}" for n in range(frauds)], of)
    instance.report_runless_asset_event(dg.AssetMaterialization("fraud_labels", partition=day.isoformat()))


def matured(settings: Settings, instance: dg.DagsterInstance, cursor: str | None) -> tuple[list[str], str | None, str]:
    requests, cursor, said = tick(settings, instance, cursor, "matured_labels_retrain")
    return [str(request.run_key) for request in requests], cursor, said


def test_each_step_of_matured_frauds_starts_one_training(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    day = RELEASED_TO + timedelta(days=1)
    labels_come(lake, instance, day, 30, of=RELEASED_TO)
    keys, cursor, said = matured(settings, instance, None)
    assert (keys, said[:8]) == ([], "0 frauds"), "the champion was measured on them"
    labels_come(lake, instance, day + timedelta(days=1), LIMIT, of=day)
    keys, cursor, said = matured(settings, instance, cursor)
    assert (keys, said[:8]) == ([], "0 frauds"), "they are known, and their day has not matured"
    assert matured(settings, instance, cursor)[2] == "no new day of fraud_labels"
    labels_come(lake, instance, day + timedelta(days=3), 0, of=day)
    keys, cursor, _ = matured(settings, instance, cursor)
    assert keys == [f"{FIRST}-{LIMIT}-1"]
    # further days, and not enough on them for the next step
    labels_come(lake, instance, day + timedelta(days=7), LIMIT - 1, of=day + timedelta(days=1))
    keys, cursor, said = matured(settings, instance, cursor)
    assert (keys, said[:9]) == ([], "39 frauds")
    labels_come(lake, instance, day + timedelta(days=8), 1, of=day + timedelta(days=2))
    assert matured(settings, instance, cursor)[0] == [f"{FIRST}-{2 * LIMIT}-1"]


def test_a_training_on_matured_frauds_that_failed_is_tried_thrice(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    day = RELEASED_TO + timedelta(days=1)
    labels_come(lake, instance, day + timedelta(days=3), LIMIT, of=day)
    keys, cursor = [], None
    for _ in range(5):
        requests, cursor, _ = tick(settings, instance, cursor, "matured_labels_retrain")
        for request in requests:
            keys.append(request.run_key)
            assert request.tags[RETRAIN_TAG] == request.run_key
            assert request.tags["fraud/cause"] == "matured_labels"
            end_run(instance, request, dg.DagsterRunStatus.FAILURE)
    assert keys == [f"{FIRST}-{LIMIT}-{attempt}" for attempt in (1, 2, 3)]


def test_it_can_be_switched_off_and_waits_for_a_champion(
    settings: Settings, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = open_lake(settings)
    labels_come(lake, instance, RELEASED_TO, 90, of=RELEASED_TO - timedelta(days=9))
    assert "no champion" in matured(settings, instance, None)[2]
    monkeypatch.setenv("FRAUD_MATURED_LABELS_RETRAIN", "0")
    assert "is 0" in matured(Settings(), instance, None)[2]


# ---- labels that count no more


def test_labels_that_count_no_more_have_what_stands_on_them_built_anew(
    settings: Settings, lake: Lake, instance: dg.DagsterInstance
) -> None:
    paid, first, last = RELEASED_TO, RELEASED_TO + timedelta(days=1), RELEASED_TO + timedelta(days=3)
    for day in days_between(paid, last):
        write_labels(lake, day, [f"f-{day}"] if day >= first else [], paid)
        lake.write(tables.LABEL_TILES, day, LABEL_TILE.empty_table())
    requests, cursor, said = tick(settings, instance, None, "label_rules")
    assert (requests, said) == ([], "no labels are distrusted")
    record = DistrustFile(settings.home)
    now = datetime.now(UTC)
    event = distrust(who="me", why="a test", now=now, source="chargeback")
    record.append(event)
    (request,), cursor, _ = tick(settings, instance, cursor, "label_rules")
    assert (request.job_name, request.tags["dagster/asset_partition_range_start"]) == ("relabel", str(first))
    assert request.tags["dagster/asset_partition_range_end"] == str(last)
    assert tick(settings, instance, cursor, "label_rules")[::2] == ([], "the same labels count as before")
    end_run(instance, request, dg.DagsterRunStatus.FAILURE)
    (again,), cursor, _ = tick(settings, instance, cursor, "label_rules")
    assert again.run_key != request.run_key
    record.append(trust(record, event.id, who="me", why="done", now=now))
    (undone,), cursor, _ = tick(settings, instance, cursor, "label_rules")
    record.append(distrust(who="me", why="again", now=now, source="chargeback"))
    (anew,), cursor, _ = tick(settings, instance, cursor, "label_rules")
    assert len({each.run_key for each in (request, again, undone, anew)}) == 4
    record.append(distrust(who="me", why="nobody's", now=now, source="nobody"))
    assert tick(settings, instance, cursor, "label_rules")[::2] == ([], "no day that is built changes")


# ---- new files


@pytest.fixture
def mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    (tmp_path / "mapping.yaml").write_text(MAPPING.format(folder=tmp_path))
    write_file(tmp_path, 1, range(1, 6))
    for name, value in {"home": tmp_path / "home", "mapping": tmp_path / "mapping.yaml"}.items():
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(value))
    return Settings()


def write_file(folder: Path, number: int, days: range, amount: str = "5.00") -> None:
    lines = [f"{number}-{day}-{n},u{n},{amount},2019-03-{day:02d} 12:00:0{n},0" for day in days for n in range(3)]
    (folder / f"payments-{number}.csv").write_text("\n".join(["nr,kunde,betrag,zeit,betrug", *lines]) + "\n")


def built(settings: Settings) -> None:
    """The history as far as the files go, to whoever asks whether a day is there."""
    platform = Platform(settings, datetime.now(UTC))
    for day in platform.opened[0].days(platform.now):
        for table in daily_tables(CATALOGUE):
            platform.lake.write(table, day, schema.RATES.empty_table())


def range_of(request: dg.RunRequest) -> tuple[str, str]:
    tags = request.tags
    return tags["dagster/asset_partition_range_start"], tags["dagster/asset_partition_range_end"]


def test_new_and_changed_files_have_their_days_built(mapped: Settings, instance: dg.DagsterInstance) -> None:
    folder = mapped.home.parent
    requests, cursor, said = tick(mapped, instance, None, "new_files")
    assert (requests, cursor) == ([], None)
    assert "not built yet" in said
    built(mapped)
    requests, cursor, _ = tick(mapped, instance, None, "new_files")
    assert requests == []
    assert tick(mapped, instance, cursor, "new_files")[2] == "no file has appeared or changed"

    write_file(folder, 2, range(6, 9))
    (request,), cursor, _ = tick(mapped, instance, cursor, "new_files")
    assert range_of(request) == ("2019-03-06", "2019-03-08"), "the days that came, and no day before them"
    assert Platform(mapped, datetime.now(UTC)).dataset.last_day == date(2019, 3, 8), "the history has grown by them"
    assert tick(mapped, instance, cursor, "new_files")[0] == []

    write_file(folder, 1, range(1, 6), amount="5.01")
    write_file(folder, 3, range(4, 5))
    (again,), cursor, _ = tick(mapped, instance, cursor, "new_files")
    assert range_of(again) == ("2019-03-01", "2019-03-08"), "whatever looks back on a changed day"
    assert again.run_key != request.run_key

    (folder / "payments-3.csv").touch()
    requests, cursor, said = tick(mapped, instance, cursor, "new_files")
    assert (requests, said) == ([], "no day's rows have changed")


def test_files_that_came_before_the_first_look_are_new_too(mapped: Settings, instance: dg.DagsterInstance) -> None:
    built(mapped)
    write_file(mapped.home.parent, 2, range(6, 8))
    (request,), _, _ = tick(mapped, instance, None, "new_files")
    assert range_of(request) == ("2019-03-06", "2019-03-07")


def test_files_whose_run_failed_are_asked_for_again(mapped: Settings, instance: dg.DagsterInstance) -> None:
    built(mapped)
    _, cursor, _ = tick(mapped, instance, None, "new_files")
    write_file(mapped.home.parent, 2, range(6, 7))
    keys = []
    for _ in range(5):
        requests, cursor, _ = tick(mapped, instance, cursor, "new_files")
        for request in requests:
            keys.append(str(request.run_key))
            assert request.tags[FILES_TAG] == request.run_key
            end_run(instance, request, dg.DagsterRunStatus.FAILURE)
    state = MappedSource.open(Path(str(mapped.mapping)), mapped).fingerprint
    assert keys == [f"files-{state}-{attempt}" for attempt in (1, 2, 3)]


def test_the_simulated_bank_has_no_files(settings: Settings, instance: dg.DagsterInstance) -> None:
    requests, _, said = tick(settings, instance, None, "new_files")
    assert (requests, said[:18]) == ([], "the simulated bank")
