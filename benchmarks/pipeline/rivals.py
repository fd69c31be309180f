"""The same windows by pandas, the same retrieval and materialization by Feast alone, on a tenth of the users.

What belongs here: what one would write without this project, held against it where the values must be the same. What
does not: making that fast, or slow. Each runs in a process of its own, beside ours on the same rows.
"""

import multiprocessing
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.pipeline.history import NEW_DAY
from benchmarks.pipeline.stages import DAY_BEFORE, YESTERDAY, peak, quiet
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE, VELOCITY_WINDOWS
from fraud_platform.features.in_force import spans
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, days_between
from fraud_platform.settings import Settings
from fraud_platform.simulator.bank import SimulatedBank

HISTORICAL_ROWS, MATERIALIZED_ROWS = 100_000, 50_000


@dataclass(frozen=True)
class Beside:
    """One piece of work by one of the two."""

    work: str
    by: str
    rows: int
    seconds: float
    peak_bytes: int


def compare(lake: Lake, bank: SimulatedBank, folder: Path, days: int, redis_url: str) -> list[Beside]:
    """Both sides of each piece of work. lake: the history, to which the bank's new day is added; redis_url: empty."""
    sample = _sample(lake, bank, folder, days)
    settings = Settings(home=folder, redis_url=redis_url, _env_file=None)
    found = []
    for work in (_our_windows, _pandas_windows, _our_training_set, _pandas_velocity, _feast_history, _our_load,
                 _feast_load):  # fmt: skip
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found.append(pool.apply(_timed, (work, settings, sample.root, days)))
    return found


def _timed(work: Callable[[Settings, Lake, int], tuple[str, str, int, float]], settings: Settings, root: str,
           days: int) -> Beside:  # fmt: skip
    with quiet():
        what, by, rows, seconds = work(settings, Lake(root), days)
    return Beside(what, by, rows, seconds, peak())


def _sample(lake: Lake, bank: SimulatedBank, folder: Path, days: int) -> Lake:
    """A lake with the raw rows of every tenth user, and all labels."""
    shutil.rmtree(folder, ignore_errors=True)
    sample, new = Lake(str(folder / "lake")), Lake(str(folder / "new"))
    new.write(tables.RAW_TRANSACTIONS, YESTERDAY, lake.read(tables.RAW_TRANSACTIONS, YESTERDAY))
    ingest_rates(new, bank, [NEW_DAY])
    ingest_transactions(new, bank, [NEW_DAY], "EUR")
    ingest_labels(new, bank, [NEW_DAY])
    for day in days_between(NEW_DAY - timedelta(days=days), NEW_DAY):
        source = new if day == NEW_DAY else lake
        rows = source.read(tables.RAW_TRANSACTIONS, day)
        kept = rows.filter(pc.equal(pc.utf8_slice_codeunits(rows["user_id"], -1), "0"))
        sample.write(tables.RAW_TRANSACTIONS, day, kept.combine_chunks())
        sample.write(tables.FRAUD_LABELS, day, source.read(tables.FRAUD_LABELS, day))
    return sample


def _our_windows(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    """User snapshot of the new day from raw rows of all days: their tiles, then the windows."""
    began = time.perf_counter()
    for day in days_between(NEW_DAY - timedelta(days=days), NEW_DAY):
        write_user_tiles(settings, lake, [day])
    write_user_features(settings, lake, [NEW_DAY])
    return "17 user windows of a day", "ours", lake.size(tables.USER_FEATURES, NEW_DAY)[0], time.perf_counter() - began


def _pandas_windows(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    """The same from the same files; raises AssertionError where a value is another."""
    import pandas as pd

    began = time.perf_counter()
    columns = ["user_id", "amount", "merchant_id", "country", "user_country", "channel", "event_time", "device_key"]
    frames = []
    for day in days_between(NEW_DAY - timedelta(days=min(days, 89)), NEW_DAY):
        rows = lake.read(tables.RAW_TRANSACTIONS, day, [*columns, "is_duplicate"]).to_pandas()
        frames.append(rows[~rows.is_duplicate].drop(columns="is_duplicate").assign(age=(NEW_DAY - day).days))
    raw = pd.concat(frames, ignore_index=True)
    raw["foreign"] = (raw.country != raw.user_country).where(raw.user_country.notna() & raw.country.notna())
    raw["online"] = (raw.channel == "online").where(raw.channel.notna())
    raw["night"] = raw.event_time.dt.hour < 6
    out = {}
    for window in (1, 7, 30, 90):
        grouped = raw[raw.age < window].groupby("user_id")
        amount = grouped.amount.agg(["count", "mean", "std", "max"])
        out[f"user_txn_count_{window}d"] = amount["count"]
        if window > 1:
            out[f"user_amount_avg_{window}d"] = amount["mean"]
        if window > 7:
            out[f"user_amount_std_{window}d"] = amount["std"]
            out[f"user_amount_max_{window}d"] = amount["max"]
        if window == 30:
            out["user_merchants_30d"] = grouped.merchant_id.nunique()
            out["user_online_share_30d"] = grouped.online.mean()
            out["user_night_share_30d"] = grouped.night.mean()
        if window == 90:
            out["user_foreign_share_90d"] = grouped.foreign.mean()
            out["user_countries_90d"] = grouped.country.nunique()
            out["user_devices_90d"] = grouped.device_key.nunique()
    found = pd.DataFrame(out)
    seconds = time.perf_counter() - began
    _same(lake, found)
    return "17 user windows of a day", "pandas", len(found), seconds


def _same(lake: Lake, found: Any) -> None:
    ours = lake.read(tables.USER_FEATURES, NEW_DAY).to_pandas().set_index("user_id").sort_index()
    found = found.sort_index()
    assert list(found.index) == list(ours.index)
    for feature in CATALOGUE.of("user"):
        theirs = found[feature.name].astype("float64")
        if not any(kind in feature.name for kind in ("avg", "std", "max", "share")):
            # a number of something: pandas has no group where there is none
            theirs = theirs.fillna(0)
        np.testing.assert_allclose(theirs, ours[feature.name], rtol=1e-5, atol=1e-2, err_msg=feature.name)


def _our_training_set(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    snapshots = [DAY_BEFORE, YESTERDAY]
    for day in (YESTERDAY, DAY_BEFORE):
        write_user_features(settings, lake, [day])
    for day in days_between(NEW_DAY - timedelta(days=days), NEW_DAY):
        write_merchant_tiles(settings, lake, [day])
        write_label_tiles(settings, lake, [day])
    for day in snapshots:
        write_merchant_features(settings, lake, [day])
    write_medians(lake, snapshots)
    in_force = spans(snapshots, [], settings.online_ttl_days)
    began = time.perf_counter()
    write_training_set(settings, lake, [NEW_DAY], in_force, in_force)
    seconds = time.perf_counter() - began
    return "training set, 50 features", "ours", lake.size(tables.TRAINING_SET, NEW_DAY)[0], seconds


def _pandas_velocity(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    """A part of a training set: counts and sums of the velocity windows per user alone."""
    import pandas as pd

    began = time.perf_counter()
    read = days_between(NEW_DAY - timedelta(days=2), NEW_DAY)
    raw = pd.concat([lake.read(tables.RAW_TRANSACTIONS, day).to_pandas() for day in read], ignore_index=True)
    raw = raw[~raw.is_duplicate].sort_values(["user_id", "event_time"])
    windows = sorted({VELOCITY_WINDOWS[f.window] for f in CATALOGUE.of("velocity") if f.name.startswith("user")})
    grouped = raw.set_index("event_time").groupby("user_id").amount
    for window in windows:
        rolling = grouped.rolling(pd.Timedelta(microseconds=window))
        raw[f"count_{window}"], raw[f"sum_{window}"] = rolling.count().to_numpy(), rolling.sum().to_numpy()
    today = raw[raw.received_at.dt.date == NEW_DAY]
    return f"velocity per user, {len(windows)} windows", "pandas", len(today), time.perf_counter() - began


def _feast_history(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    """Feast's point-in-time join of the 27 batch features; velocity and request features it has not."""
    from feature_repo.store import apply, open_store

    apply(settings)
    rows = lake.read(tables.RAW_TRANSACTIONS, NEW_DAY, ["user_id", "merchant_id", "received_at"])
    entities = rows.slice(0, HISTORICAL_ROWS).rename_columns(["user_id", "merchant_id", "event_timestamp"]).to_pandas()
    names = [f"{f.source}_snapshot:{f.name}" for source in ("user", "merchant") for f in CATALOGUE.of(source)]
    store = open_store(settings)
    began = time.perf_counter()
    found = store.get_historical_features(entity_df=entities, features=names).to_arrow()
    seconds = time.perf_counter() - began
    assert found.num_rows == len(entities)
    return "training set, 27 of 50 features", "Feast", found.num_rows, seconds


def _our_load(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    """One view's snapshot to Redis through Feast, as fast as it goes."""
    from feature_repo.store import apply
    from fraud_platform.online.packed import USER_VECTOR
    from fraud_platform.online.snapshot_load import load_snapshot_feast

    fast = settings.model_copy(update={"online_load_rate": 10**9})
    apply(fast)
    began = time.perf_counter()
    record = load_snapshot_feast(fast, lake, USER_VECTOR, YESTERDAY, now=lambda: 1)
    return "user snapshot to Redis", "ours", record.rows, time.perf_counter() - began


def _feast_load(settings: Settings, lake: Lake, days: int) -> tuple[str, str, int, float]:
    """The same values by Feast's own engine and Redis store, a field per feature."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float32
    from feast.value_type import ValueType

    names = [feature.name for feature in CATALOGUE.of("user")]
    rows = lake.read(tables.USER_FEATURES, YESTERDAY, ["user_id", "snapshot_at", *names]).slice(0, MATERIALIZED_ROWS)
    with tempfile.TemporaryDirectory() as temporary:
        pq.write_table(rows, f"{temporary}/rows.parquet")
        host = str(settings.redis_url).removeprefix("redis://").split("/")[0]
        store = FeatureStore(
            config=RepoConfig(
                project="plain",
                provider="local",
                registry=f"{temporary}/registry.db",
                online_store={"type": "redis", "connection_string": host},
                offline_store={"type": "duckdb"},
                batch_engine={"type": "local"},
                entity_key_serialization_version=3,
            )
        )
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
        source = FileSource(path=f"{temporary}/rows.parquet", timestamp_field="snapshot_at")
        view = FeatureView(
            name="plain_user",
            entities=[user],
            schema=[Field(name=name, dtype=Float32) for name in names],
            source=source,
            ttl=timedelta(days=3),
        )
        store.apply([user, view])
        at = rows["snapshot_at"][0].as_py()
        began = time.perf_counter()
        store.materialize(at - timedelta(hours=1), at + timedelta(hours=1))
        seconds = time.perf_counter() - began
        one = store.get_online_features([f"plain_user:{names[0]}"], [{"user_id": rows["user_id"][0].as_py()}])
        assert one.to_dict()[names[0]] == [rows[names[0]][0].as_py()]
    return "user snapshot to Redis", "Feast", rows.num_rows, seconds
