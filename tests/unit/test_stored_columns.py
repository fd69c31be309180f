"""What is stored of a feature stays valid when the set of features changes: another set computes what is new to it, and
nothing else."""

import json
import shutil
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fraud_platform.backtest.traffic import Traffic
from fraud_platform.cli import app
from fraud_platform.features import offline, snapshots
from fraud_platform.features.catalogue import CATALOGUE, ENTITIES, Catalogue, Feature
from fraud_platform.features.degrade import DEFAULTS_ONLY, degrade
from fraud_platform.features.in_force import spans
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.features.offline import Written
from fraud_platform.features.pruning import PrunedSnapshotError, kept_for, prune
from fraud_platform.features.snapshots import (
    read_medians,
    write_medians,
    write_merchant_features,
    write_user_features,
)
from fraud_platform.features.stored import note, noted
from fraud_platform.features.tables import RAW_TRANSACTIONS, USER_TILES, tables_of
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.homes import begin_home
from fraud_platform.lake import Lake, days_between
from fraud_platform.model.data import labels_before, load_examples, newest_medians
from fraud_platform.model.train import DEFAULTS, grow
from fraud_platform.monitoring.reference import sample_days
from fraud_platform.monitoring.skew import offline_vectors
from fraud_platform.quality import evaluate
from fraud_platform.settings import Settings
from tests.feature_oracle import DAY, Row
from tests.feature_worlds import FIRST_DAY, MIDNIGHT, TODAY, crowded_world, ingest_world

DAYS = [TODAY - timedelta(days=2), TODAY - timedelta(days=1)]
"""Of the snapshots; TODAY's payments see them."""
SPANS = spans(DAYS, [], 2)
CUT = TODAY + timedelta(days=2)


def feature(name: str) -> Feature:
    return CATALOGUE.features[CATALOGUE.position[name]]


def placed(*added: Feature) -> Catalogue:
    """The fifty with more, each behind its entity's."""
    users, merchants = (tuple(one for one in added if one.source == entity) for entity in ("user", "merchant"))
    rest = CATALOGUE.features[CATALOGUE.columns("merchant").stop :]
    return Catalogue((*CATALOGUE.of("user"), *users, *CATALOGUE.of("merchant"), *merchants, *rest))


def changed(name: str, **fields: Any) -> Catalogue:
    return Catalogue(tuple(replace(one, **fields) if one.name == name else one for one in CATALOGUE.features))


WEEK = replace(feature("user_merchants_30d"), name="user_merchants_7d", window="7d")
LARGEST = replace(feature("user_amount_max_30d"), name="merchant_amount_max_14d", source="merchant", entity="merchant",
                  window="14d", inputs=("merchant_tiles.amount_max",))  # fmt: skip
NIGHTS = replace(feature("user_txn_count_30d"), name="user_nights_60d", aggregate="sum", window="60d",
                 inputs=("user_tiles.night_count",))  # fmt: skip


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with tiles and no snapshot."""
    home = tmp_path_factory.mktemp("tiled")
    settings, lake, days = Settings(home=home), Lake(str(home / "lake")), days_between(FIRST_DAY, TODAY)
    rows, labels = crowded_world()
    # who paid once, long before any payment that sees the snapshots
    aside = Row("once", "seldom", "nowhere", 500, MIDNIGHT - 30 * DAY, MIDNIGHT - 30 * DAY)
    ingest_world(lake, [*rows, aside], labels)
    for write in (write_user_tiles, write_merchant_tiles, write_label_tiles):
        write(settings, lake, days)
    return home


@pytest.fixture(scope="module")
def built(tiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the tables of the fifty."""
    home = tmp_path_factory.mktemp("built") / "home"
    shutil.copytree(tiled, home)
    build(home, CATALOGUE)
    return home


@pytest.fixture
def home(built: Path, tmp_path: Path) -> Path:
    """A copy that keeps the times of files."""
    shutil.copytree(built, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[pa.Table]:
    """What the engine computed from here on."""
    tables: list[pa.Table] = []
    run = offline._DuckDBEngine.run

    def noted(self: Any, rows: Any) -> pa.Table:
        tables.append(run(self, rows))
        return tables[-1]

    monkeypatch.setattr(offline._DuckDBEngine, "run", noted)
    return tables


def lake_of(home: Path) -> Lake:
    return Lake(str(home / "lake"))


def build(home: Path, catalogue: Catalogue, days: list[date] = DAYS) -> dict[str, list[Written]]:
    settings, lake = Settings(home=home), lake_of(home)
    written = {
        "user": write_user_features(settings, lake, days, catalogue),
        "merchant": write_merchant_features(settings, lake, days, catalogue),
    }
    write_medians(lake, days, catalogue)
    return written | {"training": write_training_set(settings, lake, [TODAY], SPANS, SPANS, catalogue)}


def computed(written: list[Written], names: list[str]) -> list[list[str]]:
    return [[name for name in names if name not in each.reused] for each in written]


def names_of(catalogue: Catalogue, table: str) -> list[str]:
    return [one.name for one in (catalogue.features if table == "training" else catalogue.of(table))]  # type: ignore[arg-type]


def stored(home: Path, catalogue: Catalogue) -> dict[str, list[pa.Table]]:
    own, lake = tables_of(catalogue), lake_of(home)
    return {
        "user": [lake.read(own.user_features, day) for day in DAYS],
        "merchant": [lake.read(own.merchant_features, day) for day in DAYS],
        "medians": [lake.read(own.feature_medians, day) for day in DAYS],
        "training": [lake.read(own.training_set, TODAY)],
    }


def bits(table: pa.Table) -> bytes:
    """Every byte of a table's columns; what a partition says of itself is no column."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
        stream.write_table(table.replace_schema_metadata(None).cast(table.schema.remove_metadata()).combine_chunks())
    return sink.getvalue().to_pybytes()


def assert_as_from_nothing(home: Path, tiled: Path, tmp_path: Path, catalogue: Catalogue) -> None:
    """The tables of a set are those that it would have without anything stored before."""
    alone = tmp_path / "alone"
    shutil.copytree(tiled, alone)
    build(alone, catalogue)
    expected, found = stored(alone, catalogue), stored(home, catalogue)
    for table, parts in expected.items():
        for mine, theirs in zip(found[table], parts, strict=True):
            assert mine.schema.equals(theirs.schema), table
            assert bits(mine) == bits(theirs), table


def test_a_feature_more_is_computed_alone(home: Path, tiled: Path, tmp_path: Path, ran: list[pa.Table]) -> None:
    before = stored(home, CATALOGUE)
    larger = placed(WEEK, NIGHTS, LARGEST)
    written = build(home, larger)
    assert computed(written["user"], names_of(larger, "user")) == [[WEEK.name, NIGHTS.name]] * 2
    assert computed(written["merchant"], names_of(larger, "merchant")) == [[LARGEST.name]] * 2
    assert computed(written["training"], names_of(larger, "training")) == [[WEEK.name, NIGHTS.name, LARGEST.name]]
    assert [table.column_names for table in ran] == [
        ["date", "user_id", WEEK.name, NIGHTS.name],
        ["date", "merchant_id", LARGEST.name],
    ], "no payment is looked at again"
    rows = [sum(table.num_rows for table in before[entity]) for entity in ("user", "merchant")]
    assert [table.num_rows for table in ran] == rows

    assert_as_from_nothing(home, tiled, tmp_path, larger)
    after = stored(home, larger)
    for table, parts in before.items():
        for old, new in zip(parts, after[table], strict=True):
            if table != "medians":
                assert bits(old) == bits(new.select(old.column_names)), table
    assert all(
        bits(a) == bits(b)
        for table in before
        for a, b in zip(before[table], stored(home, CATALOGUE)[table], strict=True)
    )
    assert any(value for table in after["training"] for value in table[LARGEST.name].to_pylist())
    assert read_medians(lake_of(home), DAYS[0], larger)["user"].shape == (19,)


def test_another_meaning_under_the_same_name_is_computed_anew_and_nothing_else(
    home: Path, tiled: Path, tmp_path: Path, ran: list[pa.Table]
) -> None:
    other = changed("user_merchants_30d", window="3d")
    written = build(home, other)
    assert computed(written["user"], names_of(other, "user")) == [["user_merchants_30d"]] * 2
    assert computed(written["merchant"], names_of(other, "merchant")) == [[]] * 2
    assert computed(written["training"], names_of(other, "training")) == [["user_merchants_30d"]]
    assert [table.column_names for table in ran] == [["date", "user_id", "user_merchants_30d"]]
    assert_as_from_nothing(home, tiled, tmp_path, other)
    was, now = (stored(home, each)["training"][0]["user_merchants_30d"] for each in (CATALOGUE, other))
    assert not was.equals(now)


def test_a_set_that_has_nothing_new_computes_nothing(
    home: Path, tiled: Path, tmp_path: Path, ran: list[pa.Table]
) -> None:
    fewer = Catalogue(
        tuple(one for one in CATALOGUE.features if one.name not in ("user_devices_90d", "merchant_users_30d"))
    )
    renamed = replace(feature("user_devices_90d"), name="user_phones")
    for other in (fewer, Catalogue((renamed, *fewer.features))):
        build(home, other)
        assert ran == []
    assert_as_from_nothing(home, tiled, tmp_path, fewer)
    devices, phones = (stored(home, each)["user"][0] for each in (CATALOGUE, other))
    assert devices["user_devices_90d"].equals(phones["user_phones"])


def test_days_of_more_users_than_one_query_takes_reuse_too(
    home: Path, tiled: Path, tmp_path: Path, ran: list[pa.Table], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "CHUNK_ROWS", -1)
    larger = placed(WEEK, NIGHTS)
    settings, lake = Settings(home=home), lake_of(home)
    written = write_user_features(settings, lake, DAYS, larger)
    assert computed(written, names_of(larger, "user")) == [[WEEK.name, NIGHTS.name]] * 2
    assert {tuple(table.column_names) for table in ran} == {
        ("user_id", "txn_count_90", "night_count_60", "last_seen_us", "merchants"),
        ("date", "user_id", WEEK.name, NIGHTS.name),
    }
    monkeypatch.undo()
    alone = tmp_path / "alone"
    shutil.copytree(tiled, alone)
    write_user_features(Settings(home=alone), lake_of(alone), DAYS, larger)
    for day in DAYS:
        mine, theirs = (each.read(tables_of(larger).user_features, day) for each in (lake, lake_of(alone)))
        assert bits(mine) == bits(theirs)


@pytest.mark.parametrize("table", [USER_TILES, RAW_TRANSACTIONS])
def test_what_was_made_of_other_partitions_is_not_taken(home: Path, table: str, ran: list[pa.Table]) -> None:
    """A partition that was written again, as late rows do, makes what was computed of it missing."""
    lake = lake_of(home)
    rows = lake.read(table, DAYS[0])
    lake.write(table, DAYS[0], rows.slice(1))
    larger = placed(WEEK)
    written = build(home, larger)
    taken = {name: [bool(each.reused) for each in parts] for name, parts in written.items()}
    assert taken == {"user": [table != USER_TILES] * 2, "merchant": [True, True], "training": [False]}


@pytest.mark.parametrize("hashes", [True, False], ids=["another file", "no hashes"])
def test_a_partition_from_before_is_read_and_gives_nothing(home: Path, hashes: bool) -> None:
    """A file that does not say what its columns are, or of which nobody knows what it was made of."""
    lake, own = lake_of(home), tables_of(CATALOGUE)
    for table, days in ((own.user_features, DAYS), (own.training_set, [TODAY])):
        made_of = noted(lake, table, days)
        for day in days:
            rows = lake.read(table, day)
            if hashes:
                lake.write(table, day, rows.replace_schema_metadata({"written": "anew"}))
            else:
                lake.write(table, day, pa.Table.from_arrays(rows.columns, names=rows.column_names))
                note(lake, table, day, made_of[day])
    written = build(home, placed(WEEK))
    taken = {name: [bool(each.reused) for each in parts] for name, parts in written.items()}
    assert taken == {"user": [False, False], "merchant": [True, True], "training": [False]}


def test_a_pruned_snapshot_gives_what_it_kept_and_the_medians_of_everybody(
    home: Path, tiled: Path, tmp_path: Path
) -> None:
    lake, own, larger = lake_of(home), tables_of(CATALOGUE), placed(WEEK, LARGEST)
    for entity in ENTITIES:
        prune(lake, own.snapshots(entity), f"{entity}_id", DAYS[0], SPANS)
    kept = lake.read(own.user_features, DAYS[0])
    written = build(home, larger)
    assert {each.computed for each in written["user"]} == {(WEEK.name,)}
    assert {each.computed for each in written["merchant"]} == {(LARGEST.name,)}
    assert written["training"][0].computed == (WEEK.name, LARGEST.name)
    rows = lake.read(tables_of(larger).user_features, DAYS[0])
    assert bits(rows.select(kept.column_names)) == bits(kept)
    assert kept_for(lake, tables_of(larger).user_features, DAYS[0]) == kept_for(lake, own.user_features, DAYS[0])
    alone = tmp_path / "alone"
    shutil.copytree(tiled, alone)
    build(alone, larger)
    mine, theirs = stored(home, larger), stored(alone, larger)
    assert kept.num_rows < theirs["user"][0].num_rows
    for table in ("medians", "training"):
        for a, b in zip(mine[table], theirs[table], strict=True):
            assert bits(a) == bits(b)


def test_medians_of_a_pruned_snapshot_from_before_are_refused(home: Path) -> None:
    """Its rows are not everybody's, and its columns do not carry the medians."""
    lake, own = lake_of(home), tables_of(CATALOGUE)
    rows = lake.read(own.user_features, DAYS[0])
    lake.write(own.user_features, DAYS[0], pa.Table.from_arrays(rows.columns, names=rows.column_names))
    before = lake.read(own.feature_medians, DAYS[0])
    write_medians(lake, DAYS[:1])
    assert lake.read(own.feature_medians, DAYS[0]).equals(before), "they are those of its rows"
    prune(lake, own.user_features, "user_id", DAYS[0], SPANS)
    with pytest.raises(PrunedSnapshotError):
        write_medians(lake, DAYS[:1])


def test_a_day_that_the_set_has_is_computed_whole_when_it_is_asked_for_again(home: Path, ran: list[pa.Table]) -> None:
    larger = placed(WEEK)
    build(home, larger)
    ran.clear()
    again = build(home, larger)
    assert {each.reused for parts in again.values() for each in parts} == {()}
    assert {one.name for one in larger.of("user")} < set(ran[0].column_names)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": "120d"}, "1 to 90 days"),
        ({"window": "2h"}, "of days"),
        ({"aggregate": "is_new"}, "no is_new over day tiles"),
        ({"delay_days": 7}, "merchants alone"),
        ({"inputs": ("user_tiles.merchants", "user_tiles.devices")}, "no distinct over day tiles"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_a_feature_that_tiles_do_not_give_is_refused_by_name(home: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"user_merchants_7d.*{message}"):
        write_user_features(Settings(home=home), lake_of(home), DAYS, placed(replace(WEEK, **fields)))


def test_each_column_says_its_feature(home: Path) -> None:
    lake, own = lake_of(home), tables_of(CATALOGUE)
    for table, day in ((own.user_features, DAYS[0]), (own.training_set, TODAY)):
        for field in lake.read(table, day).schema:
            if field.name in CATALOGUE.names:
                assert field.metadata[b"hash"].decode() == CATALOGUE.hashes[field.name]


def test_a_command_shows_what_is_stored_of_the_features(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = changed("user_merchants_30d", window="3d")
    build(home, other)
    begin_home(home)
    monkeypatch.setenv("FRAUD_HOME", str(home))
    told = json.loads(CliRunner().invoke(app, ["features", "--stored", "--json"]).stdout)
    shown = {one["table"]: (one["days"], one["noted"], len(one["held"]), one["lacking"]) for one in told["tables"]}
    own, beside = tables_of(CATALOGUE), tables_of(other)
    assert shown == {
        own.user_features: (2, 2, 17, []),
        beside.user_features: (2, 2, 16, ["user_merchants_30d"]),
        own.merchant_features: (2, 2, 10, []),
        beside.merchant_features: (2, 2, 10, []),
        own.training_set: (1, 1, 50, []),
        beside.training_set: (1, 1, 49, ["user_merchants_30d"]),
    }
    screen = CliRunner().invoke(app, ["features", "--stored"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert (screen.exit_code, "16 of 17" in screen.stdout) == (0, True)


def test_what_learns_watches_and_looks_back_reads_the_set_that_it_is_handed(home: Path) -> None:
    larger = placed(WEEK, LARGEST)
    build(home, larger)
    lake, settings = lake_of(home), Settings(home=home)
    for catalogue in (CATALOGUE, larger):
        width = len(catalogue.names)
        rows = lake.read(tables_of(catalogue).training_set, TODAY)
        expected = np.column_stack([rows[name].to_numpy() for name in catalogue.names])
        labels = labels_before(lake, CUT, LabelRules())
        examples = load_examples(lake, [TODAY], labels, CUT, 0, catalogue)
        np.testing.assert_array_equal(examples.vectors, expected)
        assert examples.catalogue is catalogue
        _, medians = newest_medians(lake, TODAY, catalogue)
        grown = grow(
            replace(examples, is_fraud=np.arange(len(examples)) % 2 > 0), DEFAULTS, settings, medians, rounds=2
        )
        assert grown.booster.feature_names == list(catalogue.names)
        strangers = degrade(examples.vectors, DEFAULTS_ONLY, medians, catalogue)
        assert strangers.shape == expected.shape
        for name in ("user_amount_avg_30d", "amount"):
            column = catalogue.position[name]
            given = medians["user"][column] if name != "amount" else expected[:, column]
            np.testing.assert_array_equal(strangers[:, column], np.broadcast_to(np.float32(given), len(strangers)))
        [sampled] = sample_days(lake, [TODAY], 1, catalogue=catalogue).values()
        assert sampled.shape[1] == width
        vectors = [vector for _, vector in offline_vectors(lake, TODAY, catalogue=catalogue).values()]
        assert {vector.shape for vector in vectors} == {(width,)}
        seen = Traffic(lake, "EUR", None, catalogue).day(TODAY)
        assert seen.vectors.shape == expected.shape
        assert set(catalogue.names) < set(seen.payments.column_names)
        own = tables_of(catalogue)
        for table, day in ((own.user_features, DAYS[0]), (own.merchant_features, DAYS[0]), (own.training_set, TODAY)):
            findings = evaluate(settings, lake, table, [day], day, catalogue)
            assert [finding.rule for finding in findings if not finding.passed] == []
