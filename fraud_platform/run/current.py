"""Whether a home is up to date: the lake, the online store and the release, asked without Dagster.

What belongs here: cheap questions, asked at every start. What does not: building what is missing (`assets.bootstrap`).
"""

import json
from datetime import date, datetime
from pathlib import Path

from fraud_platform.dataset import OtherDatasetError, find_dataset
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.gaps import unbuilt
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import Bundle, BundleError, NoReleaseError, current_release, replace_file
from fraud_platform.online.embedded_postgres import ensure_postgres
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.epochs import velocity_epoch
from fraud_platform.online.packed import VIEWS
from fraud_platform.online.shards import connect_redis
from fraud_platform.online.snapshot_record import in_force
from fraud_platform.settings import Settings


def _mark(settings: Settings) -> Path:
    return settings.home / "run" / "built.json"


def _built(day: date) -> dict[str, str]:
    return {"last_day": day.isoformat(), "catalogue": CATALOGUE.hash, "tiles": str(tables.TILES_VERSION)}


def mark_built(settings: Settings, last_day: date) -> None:
    """Record that a build ended with everything current up to `last_day`, in Dagster's eyes too."""
    _mark(settings).parent.mkdir(parents=True, exist_ok=True)
    replace_file(_mark(settings), json.dumps(_built(last_day)).encode())


def was_built(settings: Settings) -> bool:
    """Whether a build ever ended here."""
    return _mark(settings).exists()


def is_current(settings: Settings, now: datetime) -> bool:
    """Whether a build would find nothing to do. Raises RedisUnavailableError."""
    mark = _mark(settings)
    if not mark.exists() or not (settings.home / "dagster").exists():
        return False
    lake = open_lake(settings)
    try:
        dataset = find_dataset(settings, lake, now)
    except OtherDatasetError:
        return False  # the build says so
    day = dataset.last_complete_day(now)
    if json.loads(mark.read_bytes()) != _built(day):
        return False
    complete = not unbuilt(lake, dataset.days(now))
    online = online_is_current(settings, day) and cold_is_loaded(settings)
    return complete and online and release_is_usable(settings)


def online_is_current(settings: Settings, day: date) -> bool:
    """Whether Redis has the snapshot of `day`, of the present catalogue, and velocity. Raises RedisUnavailableError."""
    with connect_redis(ensure_redis(settings)) as redis_client:
        records = [in_force(redis_client, view) for view in VIEWS]
        warmed = velocity_epoch(redis_client) is not None
    return warmed and all(
        record is not None and record.snapshot == day and record.catalogue_hash == CATALOGUE.hash for record in records
    )


def cold_is_loaded(settings: Settings) -> bool:
    """Whether PostgreSQL has a snapshot of each view, of the present catalogue. Raises PostgresUnavailableError."""
    import psycopg

    from fraud_platform.online.cold_writer import cold_records

    with psycopg.connect(ensure_postgres(settings)) as connection:
        records = cold_records(connection)
    return all(view.name in records and records[view.name].catalogue_hash == CATALOGUE.hash for view in VIEWS)


def release_is_usable(settings: Settings) -> bool:
    """Whether a published model of the present catalogue is there to decide."""
    try:
        Bundle.load(current_release(settings.home)).columns()
    except (NoReleaseError, BundleError):
        return False
    return True
