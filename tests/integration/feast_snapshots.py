"""Small snapshots of users and merchants in a lake, for the tests of the online store's two sides."""

from datetime import UTC, date, datetime, time

import numpy as np
import pyarrow as pa

from fraud_platform.features import tables
from fraud_platform.lake import Lake
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR, PackedView

COUNTRIES = ["DE", "FR", "US", ""]


def snapshot(view: PackedView, day: date, count: int, *, first: int = 0) -> pa.Table:
    """A snapshot of `count` entities whose features are a fifth nulls; entity numbers start at `first`."""
    rng = np.random.default_rng(day.toordinal())
    ids = [f"{view.entity}-{number}é" for number in range(first, first + count)]
    columns = {
        view.join_key: pa.array(ids),
        "snapshot_at": pa.array([datetime.combine(day, time.max, UTC)] * count, pa.timestamp("us", tz="UTC")),
    }
    for name in view.names:
        columns[name] = pa.array(rng.lognormal(3, 2, count).astype(np.float32), mask=rng.random(count) < 0.2)
    if view.extras:
        columns["last_seen_us"] = pa.array(rng.integers(0, 2**51, count), mask=rng.random(count) < 0.2)
        columns["known_countries"] = pa.array([COUNTRIES[: number % 5] for number in range(count)])
        devices = [rng.integers(-(2**63), 2**63 - 1, number % 4).tolist() for number in range(count)]
        columns["known_devices"] = pa.array(devices, pa.list_(pa.int64()))
    return pa.table(columns)


def write_snapshots(lake: Lake, day: date, count: int, *, first: int = 0) -> None:
    """Write both snapshots of `day` and the medians, of which the first is null."""
    lake.write(tables.USER_FEATURES, day, snapshot(USER_VECTOR, day, count, first=first))
    lake.write(tables.MERCHANT_FEATURES, day, snapshot(MERCHANT_VECTOR, day, count, first=first))
    names = [*USER_VECTOR.names, *MERCHANT_VECTOR.names]
    medians = pa.array([None, *np.linspace(0.1, 9, len(names) - 1)], pa.float32())
    lake.write(tables.FEATURE_MEDIANS, day, pa.table({"feature": names, "median": medians}))


def bits(values: list[float | None]) -> list[int | None]:
    """float32 bits of values that must be float32 already; None for None."""
    found: list[int | None] = []
    for value in values:
        assert value is None or float(np.float32(value)) == value
        found.append(None if value is None else int(np.float32(value).view(np.uint32)))
    return found
