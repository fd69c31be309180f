"""A small training set with planted signal, for tests of the model room.

Fraud hangs on the product of two features, which trees see and logistic regression does not; where it hangs on their
sum in log-odds, logistic regression is the truth and trees can only come near it.
"""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from fraud_platform import schema
from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake
from fraud_platform.model.linear import LinearModel, signed_log1p

FIRST_DAY = date(2026, 1, 1)
DAYS = 24
LAST_DAY = FIRST_DAY + timedelta(days=DAYS - 1)
NOW = datetime(2026, 1, 25, 3, tzinfo=UTC)
ROWS_PER_DAY = 300
USERS = 40
WINDOWS: dict[str, Any] = {"warmup_days": 2, "validation_days": 3, "holdout_days": 5, "label_maturity_days": 3}
"""Windows that fill the history exactly: train is 8 days."""
TRAINING: dict[str, Any] = {**WINDOWS, "training_threads": 1, "search_trials": 1, "min_holdout_frauds": 20}
"""Of a training that is no more than a test's beginning: one set of parameters is tried, which takes seconds."""
LABEL_DELAY = timedelta(hours=30)
FIRST, SECOND = CATALOGUE.names.index("amount_zscore_90d"), CATALOGUE.names.index("seconds_since_last")

FALLBACK = LinearModel(
    fill=(0.0,) * len(CATALOGUE.names),
    weights=(0.01,) * len(CATALOGUE.names),
    null_weights=(0.0,) * len(CATALOGUE.names),
    intercept=-3.0,
)
"""A logistic regression for bundles whose fallback is not what is tested."""

MEDIANS: dict[str, list[float | None]] = {
    "user": [0.5] * len(CATALOGUE.of("user")),
    "merchant": [0.25] * len(CATALOGUE.of("merchant")),
}


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def label(transaction_id: str, day: date, arrived: datetime, state: str = "confirmed") -> dict[str, Any]:
    return {
        "transaction_id": transaction_id,
        "caller": DEFAULT_CALLER,
        "transaction_date": day,
        "arrived_at": arrived,
        "source": "investigator",
        "revision": 1,
        "state": state,
    }


def write_labels(lake: Lake, labels: list[dict[str, Any]]) -> None:
    """One partition per arrival day of the history, empty ones too; later arrivals are not written."""
    for n in range(DAYS):
        day = FIRST_DAY + timedelta(days=n)
        rows = [row for row in labels if row["arrived_at"].date() == day]
        lake.write(tables.FRAUD_LABELS, day, pa.Table.from_pylist(rows, schema.LABELS))


def write_history(
    lake: Lake, *, seed: int = 1, fraud_offset: float = -4.0, mix: float = 1.0, additive: bool = False
) -> list[dict[str, Any]]:
    """Write training set, labels and medians of DAYS days; returns the labels. mix: strength of the signal."""
    random = np.random.default_rng(seed)
    labels = []
    for n in range(DAYS):
        day = FIRST_DAY + timedelta(days=n)
        vectors = random.normal(size=(ROWS_PER_DAY, len(CATALOGUE.names))).astype(np.float32)
        product = vectors[:, FIRST] * vectors[:, SECOND]
        total = signed_log1p(vectors[:, FIRST]) + signed_log1p(vectors[:, SECOND])
        odds = fraud_offset + mix * (2 * total if additive else 5 * np.clip(product, -1, 1.5))
        fraud = random.random(ROWS_PER_DAY) < 1 / (1 + np.exp(-odds))
        vectors[random.random(vectors.shape) < 0.05] = np.nan
        received = [midnight(day) + timedelta(seconds=i * 280) for i in range(ROWS_PER_DAY)]
        names = [f"t-{n}-{i}" for i in range(ROWS_PER_DAY)]
        columns: dict[str, Any] = {
            "transaction_id": names,
            "transaction_date": pa.array([day] * ROWS_PER_DAY, pa.date32()),
            "received_at": pa.array(received, schema.TIME),
            "user_id": [f"u{i % USERS}" for i in range(ROWS_PER_DAY)],
            "amount_minor": pa.array(random.lognormal(8, 1, ROWS_PER_DAY).astype(np.int64), pa.int64()),
            "country": [("DE", "FR", None)[i % 3] for i in range(ROWS_PER_DAY)],
            "channel": [("online", "pos")[i % 2] for i in range(ROWS_PER_DAY)],
        }
        columns |= {
            name: pa.array(vectors[:, i], pa.float32(), from_pandas=True) for i, name in enumerate(CATALOGUE.names)
        }
        lake.write(tables.TRAINING_SET, day, pa.table(columns))
        labels += [label(names[i], day, received[i] + LABEL_DELAY) for i in np.flatnonzero(fraud)]
        medians = [float(n), *[0.5] * 25, None]
        features = [f.name for source in ("user", "merchant") for f in CATALOGUE.of(source)]
        lake.write(
            tables.FEATURE_MEDIANS, day, pa.table({"feature": features, "median": pa.array(medians, pa.float32())})
        )
    write_labels(lake, labels)
    return labels
