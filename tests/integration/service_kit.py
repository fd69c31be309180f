"""What a decision service needs around it in a test: users in the online store, and a small model released."""

import hashlib
import socket
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.model.bundle import Bundle, definitions_of, publish
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.linear import LinearModel
from fraud_platform.online import velocity
from fraud_platform.online.epochs import put_epoch
from fraud_platform.online.packed import MERCHANT_VECTOR, PROJECT, USER_VECTOR, PackedView
from fraud_platform.online.shards import RedisClient
from fraud_platform.online.snapshot_load import pack, put_in_force
from fraud_platform.online.snapshot_record import end_of_day
from fraud_platform.online.writer import write_packed

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
    load_view(client, USER_VECTOR, USERS)
    load_view(client, MERCHANT_VECTOR, MERCHANTS)
    epoch = velocity.Epoch(epoch="test", complete_since=0)
    put_epoch(client, epoch)


def load_view(client: RedisClient, view: PackedView, ids: list[str], **values: float) -> None:
    """Put yesterday's snapshot of some entities in force: FEATURE_VALUE, but for the features that `values` names."""
    now = time.time_ns() // 1_000
    day = (datetime.now(UTC) - timedelta(days=1)).date()
    columns: dict[str, Any] = {
        view.join_key: pa.array(ids),
        "snapshot_at": pa.array([end_of_day(day)] * len(ids), pa.timestamp("us", tz="UTC")),
        **{name: pa.array([values.get(name, FEATURE_VALUE)] * len(ids), pa.float32()) for name in view.names},
    }
    if view.entity == "user":
        columns["last_seen_us"] = pa.array([end_of_day(day) - 1] * len(ids), pa.int64())
        columns["known_countries"] = pa.array([["DE"]] * len(ids), pa.list_(pa.string()))
        columns["known_devices"] = pa.array([[1]] * len(ids), pa.list_(pa.int64()))
    write_packed(client, PROJECT, view, pack(pa.table(columns), view), ttl_seconds=3600)
    medians: list[float | None] = [FEATURE_VALUE] * len(view.names)
    put_in_force(client, view, day, medians, len(ids), now, lambda: now, b"")


def publish_small_model(home: Path, *, version: int, seed: int, data: dict[str, Any] | None = None) -> Any:
    """Train a few trees on noise, release them as fraud-detector/`version` and return the native booster."""
    booster, bundle = small_model(version=version, seed=seed, deciding="amount", data=data)
    folder = home / f"bundle-{version}-{seed}"
    bundle.write(folder)
    publish(home, folder)
    return booster


def small_model(
    *, version: int, seed: int, deciding: str, catalogue: Catalogue = CATALOGUE, data: dict[str, Any] | None = None
) -> tuple[Any, Bundle]:
    """A few trees on noise, which split on one feature of a set above all, and their bundle."""
    import xgboost

    random = np.random.default_rng(seed)
    vectors = random.normal(20, 20, (400, len(catalogue.names))).astype(np.float32)
    vectors[random.random(vectors.shape) < 0.1] = np.nan
    labels = np.nan_to_num(vectors[:, catalogue.position[deciding]]) + random.normal(0, 5, len(vectors)) > 20
    parameters = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1, "seed": seed, "base_score": 0.5}
    matrix = xgboost.DMatrix(vectors, labels, feature_names=list(catalogue.names))
    booster = xgboost.train(parameters, matrix, num_boost_round=8)
    model = bytes(booster.save_raw("ubj"))
    width = len(catalogue.names)
    fallback = LinearModel(fill=(0.0,) * width, weights=(0.01,) * width, null_weights=(0.0,) * width, intercept=-3.0)
    bundle = Bundle(
        model_name="fraud-detector",
        version=version,
        catalogue_hash=catalogue.hash,
        features=catalogue.names,
        definitions=definitions_of(catalogue),
        medians={entity: [1.0] * len(catalogue.of(entity)) for entity in ("user", "merchant")},
        calibration=UNCALIBRATED,
        fallback=fallback,
        threshold=0.6,
        review_threshold=0.3,
        model_sha256=hashlib.sha256(model).hexdigest(),
        mlflow_run_id=None,
        dagster_run_id=None,
        data=data or {},
        trained_at="2026-11-23T00:00:00Z",
        model=model,
    )
    return booster, bundle
