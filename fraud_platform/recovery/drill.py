"""A drill: on a copy of a home, lose one thing after the other, get it back, and hold what is decided against before.

What belongs here: what is lost, the order, the clock. What does not: the copy (`copied`), getting things back, which is
what the jobs of every day and `backup` do.
"""

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg
from pydantic import SecretStr

from fraud_platform.decision.api_keys import add_key, keys_path, read_keys
from fraud_platform.features import tables
from fraud_platform.inference_log.search import decided_since
from fraud_platform.inference_log.table import TABLE, LogTable
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import current_release, releases
from fraud_platform.model.ledger import read_ledger
from fraud_platform.model.registry import CHAMPION
from fraud_platform.model.served_sets import sets_in_force
from fraud_platform.online.cold_writer import cold_table
from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_address, postgres_folder, stop_postgres
from fraud_platform.online.embedded_redis import ensure_redis, redis_address, redis_folder, stop_redis
from fraud_platform.online.other_views import load_other, load_other_cold, loadable
from fraud_platform.online.packed import PROJECT, VIEWS
from fraud_platform.online.shards import connect_redis
from fraud_platform.online.snapshot_load import load_cold, load_snapshot_feast
from fraud_platform.online.store import OnlineStore
from fraud_platform.online.warm import warm_velocity
from fraud_platform.recovery.backup import backup, restore
from fraud_platform.recovery.copied import DrillError, copied
from fraud_platform.run.home import open_home
from fraud_platform.run.samples import Sample, choose_samples
from fraud_platform.run.servers import SERVICE, Server, servers
from fraud_platform.schema import Transaction
from fraud_platform.settings import Settings

_READY_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """One loss."""

    lost: str
    seconds: float
    """From the loss until it was back."""
    meanwhile: str
    """How the same payment was answered in between."""
    afterwards: str
    same: bool
    """Whether everything that was compared is as before."""
    compared: str


def drill(settings: Settings, folder: Path, told: Callable[[str], None]) -> list[Outcome]:
    """Copy the home into `folder`, lose and get back, and end the copy's servers. told: called with each step's name.

    Raises DrillError; OSError.
    """
    copy = copied(settings, folder)
    lake = Lake(copy.lake)
    days = lake.days(tables.FEATURE_MEDIANS)
    samples = choose_samples(lake, copy.base_currency, datetime.now(UTC))
    if not days or not samples:
        raise DrillError(f"{settings.home} has no features or no transactions: run `fraud-platform up` once")
    world = _World(copy, lake, days[-1], samples[0], told)
    try:
        return world.run(folder.with_name(f"{folder.name}-backup"))
    finally:
        stop_redis(copy)
        stop_postgres(copy)


@dataclass
class _World:
    settings: Settings
    lake: Lake
    day: date
    sample: Sample
    told: Callable[[str], None]
    decided: int = 0
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def serving(self) -> Settings:
        """What the copy's processes are given: every address is named, since their environment may hold live ones."""
        postgres = postgres_address(self.settings)
        return self.settings.model_copy(
            update={
                "lake_url": self.settings.lake,
                "redis_url": redis_address(self.settings),
                "postgres_url": None if postgres is None else SecretStr(postgres),
                "kafka_bootstrap": "",
                "control_url": SecretStr(""),
            }
        )

    def run(self, kept: Path) -> list[Outcome]:
        """Every loss in turn, on one running service."""
        self.told("Redis and PostgreSQL of the copy are filled")
        self._load_redis()
        self._load_postgres()
        backup(self.settings, kept, datetime.now(UTC))
        if read_keys(keys_path(self.settings.home)):
            # the copy's own key, which goes with it
            token, _ = add_key(keys_path(self.settings.home), "drill", ["decide"], datetime.now(UTC))
            self.headers = {"authorization": f"Bearer {token}"}
        with self._service() as service:
            self.url = str(service.url)
            return [
                self._lose("Redis", self._drop_redis, self._load_redis, self._in_redis, "batch features of a payment"),
                self._lose("PostgreSQL", self._drop_postgres, self._load_postgres, self._in_postgres, "every row"),
                self._lose(
                    "registry, from the backup", lambda: shutil.rmtree(self.settings.home / "mlflow"),
                    lambda: restore(self.settings, kept), self._registered, "champion and every file",
                ),
                self._lose(
                    "registry, from the releases", lambda: shutil.rmtree(self.settings.home / "mlflow"),
                    self._rebuild_registry, lambda: self._registered()[0], "champion",
                ),
                self._lose(
                    "ledger", lambda: (releases(self.settings.home) / "ledger.jsonl").unlink(),
                    lambda: restore(self.settings, kept), lambda: read_ledger(self.settings.home), "every line",
                ),
                self._lose(
                    # nothing is to be done: the next commit writes it anew, and a decision is known by its id
                    "the log's commit record", self._drop_commit, lambda: None, self._logged, "every decision",
                ),
            ]  # fmt: skip

    def _lose(
        self, name: str, drop: Callable[[], object], get_back: Callable[[], object], look: Callable[[], Any],
        compared: str,
    ) -> Outcome:  # fmt: skip
        self.told(f"{name} is lost")
        before, answer = look(), self._decide(patient=True)
        drop()
        began = time.monotonic()
        meanwhile = self._decide()
        get_back()
        seconds = time.monotonic() - began
        after, afterwards = look(), self._decide(patient=True)
        same = _equal(before, after) and {**answer, "score": 0} == {**afterwards, "score": 0}
        return Outcome(name, seconds, _words(meanwhile), _words(afterwards), same, compared)

    def _decide(self, *, patient: bool = False) -> dict[str, Any]:
        """The service's answer to one payment; patient: asked for up to ten seconds until nothing is degraded."""
        until = time.monotonic() + (10 if patient else 0)
        while True:
            self.decided += 1
            payment = self.sample.payment | {"transaction_id": f"drill-{os.getpid()}-{self.decided}"}
            payment["timestamp"] = datetime.now(UTC).isoformat()
            response = httpx.post(f"{self.url}/v1/predict", json=payment, headers=self.headers, timeout=10)
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
            if not answer["degraded"] or time.monotonic() > until:
                return {name: answer[name] for name in ("decision", "score", "model_version", "served_by", "degraded")}
            time.sleep(0.2)

    def _load_redis(self) -> None:
        lost = decided_since(self.settings.home, LogTable(self.lake), self.day, self.settings.region)
        with connect_redis(ensure_redis(self.settings)) as client:
            for view in VIEWS:
                load_snapshot_feast(self.settings, self.lake, view, self.day, now=_now)
            for other in loadable(sets_in_force(self.settings.home)):
                load_other(self.settings, self.lake, client, other, self.day, _now)
            warm_velocity(self.settings, self.lake, client, self.day, complete=not lost, now_us=_now())

    def _drop_redis(self) -> None:
        stop_redis(self.settings)
        shutil.rmtree(redis_folder(self.settings))

    def _in_redis(self) -> list[Any]:
        """What serving reads of the payment's user and merchant, velocity being that of the lake's last days."""
        return asyncio.run(self._read())

    async def _read(self) -> list[Any]:
        payment = self.sample.payment
        store = OnlineStore(ensure_redis(self.settings), ttl_days=self.settings.online_ttl_days)
        await store.open()
        try:
            at = _now()
            found = await store.read(
                Transaction(
                    transaction_id="drill", user_id=payment["user_id"], merchant_id=payment["merchant_id"],
                    amount=100, event_time=at, received_at=at,
                ),
                write=False,
            )  # fmt: skip
        finally:
            await store.close()
        return [found.user_row, found.merchant_row, found.user_snapshot, found.known_devices, found.served_by]

    def _load_postgres(self) -> None:
        for view in VIEWS:
            load_cold(self.settings, self.lake, view, self.day, now=_now)
        with psycopg.connect(ensure_postgres(self.settings)) as connection:
            for other in loadable(sets_in_force(self.settings.home)):
                load_other_cold(connection, self.lake, other, self.day, _now)

    def _drop_postgres(self) -> None:
        stop_postgres(self.settings)
        shutil.rmtree(postgres_folder(self.settings))

    def _in_postgres(self) -> list[Any]:
        with psycopg.connect(ensure_postgres(self.settings)) as connection:
            return [
                connection.execute(
                    "SELECT count(*), md5(string_agg(md5(entity_key || value), '' ORDER BY entity_key, feature_name)) "
                    f'FROM "{cold_table(PROJECT, view)}"'
                ).fetchall()
                for view in VIEWS
            ]

    def _registered(self) -> list[Any]:
        """The champion by the registry's database itself: MLflow in this process would go on reading a deleted one."""
        folder = self.settings.home / "mlflow"
        with closing(sqlite3.connect(f"file:{folder / 'mlflow.db'}?mode=ro", uri=True)) as database:
            champion = database.execute(
                "SELECT version FROM registered_model_aliases WHERE alias = ?", (CHAMPION,)
            ).fetchall()
        files = sorted(str(path.relative_to(folder)) for path in (folder / "artifacts").rglob("*") if path.is_file())
        return [champion, files, current_release(self.settings.home).name]

    def _rebuild_registry(self) -> None:
        command = [sys.executable, "-m", "fraud_platform.cli", "release", "rebuild-registry"]
        environment = open_home(self.settings).environment(self.serving)
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def _drop_commit(self) -> None:
        path = self.settings.home / "lake" / TABLE / "committed.json"
        path.unlink(missing_ok=True)

    def _logged(self) -> list[Any]:
        table = LogTable(self.lake)
        return [(day, sorted(table.log_keys(day))) for day in table.days()]

    @contextmanager
    def _service(self) -> Iterator[Server]:
        home = open_home(self.settings)
        for path in (home.logs, home.run):
            path.mkdir(parents=True, exist_ok=True)
        server = servers(self.serving, home)[SERVICE]
        self.told("the decision service of the copy starts")
        server.child.start()
        try:
            until = time.monotonic() + _READY_SECONDS
            with httpx.Client() as client:
                while not server.ready(client):
                    if time.monotonic() > until or not server.child.running:
                        raise DrillError(f"the service of the copy does not start: {server.child.tail()}")
                    time.sleep(0.1)
            yield server
        finally:
            server.child.stop()


def _now() -> int:
    return time.time_ns() // 1_000


def _words(answer: dict[str, Any]) -> str:
    served = answer["served_by"]
    return f"{answer['decision']} by {served['user_features']}, {served['model']}"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.tobytes() == other.tobytes()
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
