"""What all candidates serve from: one Redis with 200,000 users, one model of 500 trees, one home.

What belongs here: making that, once per size, under `var/bench`. What does not: servers under test, load.
"""

import hashlib
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from feature_repo.store import apply
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import Bundle, publish
from fraud_platform.model.calibration import UNCALIBRATED
from fraud_platform.model.linear import LinearModel
from fraud_platform.online import velocity
from fraud_platform.online.embedded_redis import ALLOCATION, find_redis_server
from fraud_platform.online.packed import VIEWS, PackedView
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES, load_snapshot_direct
from fraud_platform.online.snapshot_record import end_of_day
from fraud_platform.settings import Settings

TREES, DEPTH, SEED = 500, 6, 11


@dataclass(frozen=True)
class World:
    """Where everything is."""

    home: Path
    redis_port: int
    users: int
    merchants: int

    @property
    def redis_url(self) -> str:
        """The Redis of all candidates."""
        return f"redis://127.0.0.1:{self.redis_port}/0"

    @property
    def model_file(self) -> Path:
        """The trees, in XGBoost's own format."""
        return self.home / "model.ubj"

    @property
    def settings(self) -> Settings:
        """Settings of this home."""
        return Settings(home=self.home, redis_url=self.redis_url, _env_file=None)

    def environment(self) -> dict[str, str]:
        """Environment of a server under test: this home, and nothing of the user's own settings."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FRAUD_")}
        return {**kept, "FRAUD_HOME": str(self.home), "FRAUD_REDIS_URL": self.redis_url, "OMP_NUM_THREADS": "1"}


def start_redis(world: World) -> "subprocess.Popen[bytes]":
    """A real server with the platform's own options, empty; returns when it answers."""
    folder = world.home / "redis"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [
        str(find_redis_server()), "--port", str(world.redis_port), "--bind", "127.0.0.1", "--dir", str(folder),
        "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", "--hash-max-ziplist-value", "256",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=ALLOCATION | os.environ
    )
    with redis.Redis.from_url(world.redis_url, retry=Retry(NoBackoff(), 0)) as client:
        deadline = time.monotonic() + 20
        while True:
            try:
                client.ping()
                return process
            except redis.ConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


def fill(world: World) -> None:
    """Users and merchants for us and for Feast; 50 strings per user for the reference."""
    apply(world.settings)
    day = (datetime.now(UTC) - timedelta(days=1)).date()
    lake = open_lake(world.settings)
    names: list[str] = []
    medians: list[float] = []
    now = time.time_ns() // 1_000
    with redis.Redis.from_url(world.redis_url) as client:
        client.flushall()
        for view, count in zip(VIEWS, (world.users, world.merchants), strict=True):
            lake.write(SNAPSHOT_TABLES[view.entity], day, _snapshot(view, count, end_of_day(day)))
            names += view.names
            medians += [1.0] * len(view.names)
        lake.write(tables.FEATURE_MEDIANS, day, pa.table({"feature": names, "median": pa.array(medians, pa.float32())}))
        for view in VIEWS:
            load_snapshot_direct(client, lake, view, day, now=lambda: now, ttl_seconds=7 * 86_400)
        epoch = velocity.Epoch(epoch="bench", complete_since=0)
        client.set(velocity.epoch_key(), msgspec.json.encode(epoch))
        random = np.random.default_rng(SEED)
        for first in range(0, world.users, 2_000):
            with client.pipeline(transaction=False) as pipe:
                for user in range(first, min(first + 2_000, world.users)):
                    values = random.lognormal(3, 2, len(CATALOGUE.names)).astype(np.float32).tolist()
                    fields = {name: repr(value) for name, value in zip(CATALOGUE.names, values, strict=True)}
                    pipe.hset(f"features:user-{user}", mapping=fields)
                pipe.execute()


def _snapshot(view: PackedView, count: int, at: int) -> pa.Table:
    random = np.random.default_rng(SEED)
    prefix = "user-" if view.entity == "user" else "m-"
    columns: dict[str, pa.Array] = {
        view.join_key: pa.array([f"{prefix}{number}" for number in range(count)]),
        "snapshot_at": pa.array(np.full(count, at), pa.timestamp("us", tz="UTC")),
    }
    columns |= {name: pa.array(random.lognormal(3, 2, count).astype(np.float32) + 5) for name in view.names}
    if view.extras:
        columns["last_seen_us"] = pa.array(np.full(count, at - 1))
        columns["known_countries"] = pa.array([["DE", "FR"]] * count)
        columns["known_devices"] = pa.array([[1, 2, 3]] * count, pa.list_(pa.int64()))
    return pa.table(columns)


def release(world: World) -> None:
    """A model of 500 trees over 50 features, trained on noise; kept for the next run."""
    import xgboost

    if not world.model_file.exists():
        random = np.random.default_rng(SEED)
        vectors = random.lognormal(3, 2, (20_000, len(CATALOGUE.names))).astype(np.float32)
        labels = random.random(len(vectors)) < 0.2
        matrix = xgboost.DMatrix(vectors, labels, feature_names=list(CATALOGUE.names))
        parameters = {"objective": "binary:logistic", "max_depth": DEPTH, "seed": SEED, "base_score": 0.5, "eta": 0.05}
        booster = xgboost.train(parameters, matrix, num_boost_round=TREES)
        world.home.mkdir(parents=True, exist_ok=True)
        world.model_file.write_bytes(bytes(booster.save_raw("ubj")))
    model = world.model_file.read_bytes()
    width = len(CATALOGUE.names)
    bundle = Bundle(
        model_name="fraud-detector",
        version=1,
        catalogue_hash=CATALOGUE.hash,
        features=CATALOGUE.names,
        medians={entity: [1.0] * len(CATALOGUE.of(entity)) for entity in ("user", "merchant")},
        calibration=UNCALIBRATED,
        fallback=LinearModel(fill=(0.0,) * width, weights=(0.0,) * width, null_weights=(0.0,) * width, intercept=-3.0),
        threshold=0.7,
        review_threshold=0.4,
        model_sha256=hashlib.sha256(model).hexdigest(),
        mlflow_run_id=None,
        dagster_run_id=None,
        data={},
        trained_at="2026-01-01T00:00:00Z",
        model=model,
    )
    folder = world.home / "bundle"
    bundle.write(folder)
    publish(world.home, folder)
