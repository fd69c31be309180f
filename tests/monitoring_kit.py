"""Days of decisions around a released model, with what is wanted of them: drift, fraud, a lost store."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fraud_platform import schema
from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.training_set import TRAINING_ROW
from fraud_platform.inference_log.record import DecisionRecord, ServedBy, encode_record, vector_bytes
from fraud_platform.inference_log.table import LogTable, rows
from fraud_platform.lake import Lake
from tests.record_kit import record

HOLDOUT = [date(2026, 2, day) for day in (1, 2, 3)]
DAY = date(2026, 3, 1)
DRIFTING = "amount_zscore_90d"


def vectors(random: np.random.Generator, count: int, *, shift: float = 0.0) -> NDArray[np.float32]:
    """Skewed, discrete, half-empty and constant features; `shift` moves DRIFTING, in standard deviations."""
    made = np.empty((count, len(CATALOGUE.names)), np.float32)
    for index in range(made.shape[1]):
        if index % 4 == 0:
            made[:, index] = random.lognormal(3, 1, count)
        elif index % 4 == 1:
            made[:, index] = random.poisson(2, count)
        elif index % 4 == 2:
            made[:, index] = np.where(random.random(count) < 0.4, np.nan, random.normal(0, 1, count))
        else:
            made[:, index] = 1.0
    made[:, CATALOGUE.names.index(DRIFTING)] = random.normal(shift, 1, count)
    return made


def microseconds(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1_000_000


def write_training_day(lake: Lake, day: date, made: NDArray[np.float32], **columns: list[Any]) -> None:
    """A training-set partition of these vectors: transaction `<day>-<n>`, one a second."""
    count, start = len(made), microseconds(day)
    plain: dict[str, Any] = {
        "transaction_id": [f"{day}-{n}" for n in range(count)],
        "caller": ["default"] * count,
        "user_id": [f"u-{n}" for n in range(count)],
        "merchant_id": ["m-1"] * count,
        "transaction_date": [day] * count,
        "received_at": [start + n * 1_000_000 for n in range(count)],
        "event_time": [start + n * 1_000_000 for n in range(count)],
        "user_effective_time": [start + n * 1_000_000 for n in range(count)],
        "merchant_effective_time": [start + n * 1_000_000 for n in range(count)],
        "amount_minor": [1_000] * count,
        "country": ["DE"] * count,
        "region": [""] * count,
        "user_counted_since": [0] * count,
        "merchant_counted_since": [0] * count,
        "user_country": ["DE"] * count,
        "channel": ["online"] * count,
        "user_snapshot": [day - timedelta(days=1)] * count,
        "merchant_snapshot": [day - timedelta(days=1)] * count,
        **{name: made[:, index] for index, name in enumerate(CATALOGUE.names)},
        **columns,
    }
    lake.write(
        tables.TRAINING_SET, day, pa.table([pa.array(plain[f.name], f.type) for f in TRAINING_ROW], TRAINING_ROW)
    )


def decided(day: date, made: NDArray[np.float32], scores: NDArray[np.float64], **changes: Any) -> list[DecisionRecord]:
    """Decisions on the transactions of `write_training_day`, blocked above 0.7."""
    start = microseconds(day)
    plain = record()
    before = (day - timedelta(days=1)).isoformat()
    return [
        msgspec.structs.replace(
            plain,
            decision_id=f"{day}-{n:08d}",
            request=msgspec.structs.replace(plain.request, transaction_id=f"{day}-{n}", user_id=f"u-{n}"),
            received_at=start + n * 1_000_000,
            user_effective_time=start + n * 1_000_000,
            merchant_effective_time=start + n * 1_000_000,
            catalogue_hash=CATALOGUE.hash,
            vector=vector_bytes(vector),
            user_snapshot=before,
            merchant_snapshot=before,
            epoch="e",
            complete_since=0,
            score=float(score),
            decision="block" if score > 0.7 else "flag_for_review" if score > 0.4 else "allow",
            model_version="fraud-detector/1",
            **changes,
        )
        for n, (vector, score) in enumerate(zip(made, scores, strict=True))
    ]


def degraded() -> ServedBy:
    return ServedBy(user_features="default", merchant_features="default", model="champion")


def log_decisions(lake: Lake, records: list[DecisionRecord]) -> None:
    """Commit decisions to the log's table."""
    LogTable(lake).commit(rows((each, encode_record(each)) for each in records), {})


def write_labels(
    lake: Lake,
    day: date,
    frauds: list[str],
    transaction_day: date,
    cleared: Sequence[str] = (),
    caller: str = DEFAULT_CALLER,
) -> None:
    """Confirmed frauds of a caller that arrive on a day, and good payments that an investigator has looked at."""
    count = len(frauds) + len(cleared)
    plain = {
        "transaction_id": [*frauds, *cleared],
        "caller": [caller] * count,
        "transaction_date": [transaction_day] * count,
        "source": ["chargeback"] * len(frauds) + ["investigator"] * len(cleared),
        "revision": [1] * count,
        "state": ["confirmed"] * len(frauds) + ["cleared"] * len(cleared),
        "arrived_at": [microseconds(day) + 3_600_000_000] * count,
    }
    fields = [pa.array(plain[f.name], f.type) for f in schema.LABELS]
    lake.write(tables.FRAUD_LABELS, day, pa.table(fields, schema.LABELS))


def release_with_holdout(home: Path, lake: Lake, rows_per_day: int = 2_000, seed: int = 3) -> Path:
    """A small released model whose holdout is HOLDOUT, and that holdout's training set."""
    from tests.integration.service_kit import publish_small_model

    random = np.random.default_rng(seed)
    for day in HOLDOUT:
        write_training_day(lake, day, vectors(random, rows_per_day))
    split = {"holdout": [HOLDOUT[0].isoformat(), HOLDOUT[-1].isoformat()], "training_cut": HOLDOUT[0].isoformat()}
    publish_small_model(home, version=1, seed=1, data={"split": split})
    return home / "releases" / "fraud-detector-1"
