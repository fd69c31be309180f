"""What a decision service needs around it in a test: users in the online store, and a small model released."""

import hashlib
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.model.bundle import Bundle, publish
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.online import velocity
from fraud_platform.online.epochs import put_epoch
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, PackedView
from fraud_platform.online.shards import RedisClient
from fraud_platform.online.snapshot_load import pack, put_in_force
from fraud_platform.online.snapshot_record import end_of_day
from fraud_platform.online.writer import write_packed
from tests.model_kit import FALLBACK

USERS = ["u-1", "u-2", "u-3"]
MERCHANTS = ["m-1"]
FEATURE_VALUE = 9.0
"""Every batch feature of every entity: above the five transactions that make an entity personal."""


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def fill_online_store(client: RedisClient) -> None:
    """Put yesterday's snapshot of USERS and MERCHANTS in force, and declare velocity complete."""
    _load(client, USER_VECTOR, USERS)
    _load(client, MERCHANT_VECTOR, MERCHANTS)
    epoch = velocity.Epoch(epoch="test", complete_since=0)
    put_epoch(client, epoch)


def _load(client: RedisClient, view: PackedView, ids: list[str]) -> None:
    now = time.time_ns() // 1_000
    day = (datetime.now(UTC) - timedelta(days=1)).date()
    columns: dict[str, Any] = {
        view.join_key: pa.array(ids),
        "snapshot_at": pa.array([end_of_day(day)] * len(ids), pa.timestamp("us", tz="UTC")),
        **{name: pa.array([FEATURE_VALUE] * len(ids), pa.float32()) for name in view.names},
    }
    if view is USER_VECTOR:
        columns["last_seen_us"] = pa.array([end_of_day(day) - 1] * len(ids), pa.int64())
        columns["known_countries"] = pa.array([["DE"]] * len(ids), pa.list_(pa.string()))
        columns["known_devices"] = pa.array([[1]] * len(ids), pa.list_(pa.int64()))
    write_packed(client, PROJECT, view, pack(pa.table(columns), view), ttl_seconds=3600)
    medians: list[float | None] = [FEATURE_VALUE] * len(view.names)
    put_in_force(client, view, day, medians, len(ids), now, lambda: now, b"")


def publish_small_model(home: Path, *, version: int, seed: int, data: dict[str, Any] | None = None) -> Any:
    """Train a few trees on noise, release them as fraud-detector/`version` and return the native booster."""
    import xgboost

    random = np.random.default_rng(seed)
    vectors = random.normal(20, 20, (400, len(CATALOGUE.names))).astype(np.float32)
    vectors[random.random(vectors.shape) < 0.1] = np.nan
    labels = np.nan_to_num(vectors[:, 38]) + random.normal(0, 5, len(vectors)) > 20
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": seed, "base_score": 0.5}
    matrix = xgboost.DMatrix(vectors, labels, feature_names=list(CATALOGUE.names))
    booster = xgboost.train(parameters, matrix, num_boost_round=8)
    model = bytes(booster.save_raw("ubj"))
    bundle = Bundle(
        model_name="fraud-detector",
        version=version,
        catalogue_hash=CATALOGUE.hash,
        features=CATALOGUE.names,
        medians={entity: [1.0] * len(CATALOGUE.of(entity)) for entity in ("user", "merchant")},
        calibration=UNCALIBRATED,
        fallback=FALLBACK,
        threshold=0.6,
        review_threshold=0.3,
        model_sha256=hashlib.sha256(model).hexdigest(),
        mlflow_run_id=None,
        dagster_run_id=None,
        data=data or {},
        trained_at="2026-11-23T00:00:00Z",
        model=model,
    )
    folder = home / f"bundle-{version}-{seed}"
    bundle.write(folder)
    publish(home, folder)
    return booster
