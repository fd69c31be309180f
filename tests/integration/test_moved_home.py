"""The embedded stores of a home that was moved: stopped before, as they should be, or while they ran."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_pid, stop_postgres
from fraud_platform.online.embedded_redis import ensure_redis, redis_pid, stop_redis
from fraud_platform.online.shards import connect_redis
from fraud_platform.settings import Settings


@pytest.fixture
def places(tmp_path: Path) -> Iterator[list[Settings]]:
    found = [Settings(home=tmp_path / name) for name in ("here", "there", "elsewhere")]
    yield found
    for settings in found:
        stop_redis(settings)
        stop_postgres(settings)


def test_stores_of_a_moved_home_have_what_they_had(places: list[Settings]) -> None:
    here, there, elsewhere = places
    with connect_redis(ensure_redis(here)) as client:
        client.set("known", "before")
    with psycopg.connect(ensure_postgres(here), autocommit=True) as connection:
        connection.execute("CREATE TABLE known AS SELECT 'before' AS word")

    def read(settings: Settings) -> tuple[object, ...]:
        with connect_redis(ensure_redis(settings)) as client, psycopg.connect(ensure_postgres(settings)) as connection:
            row = connection.execute("SELECT word FROM known").fetchone()
            return (client.get("known"), row)

    here.home.rename(there.home)
    assert read(there) == (b"before", ("before",)), "moved while both ran"
    assert redis_pid(there) is not None
    assert postgres_pid(there) is not None
    assert not here.home.exists()
    assert stop_redis(there)
    assert stop_postgres(there)
    there.home.rename(elsewhere.home)
    assert read(elsewhere) == (b"before", ("before",)), "moved after `down`"
    assert not there.home.exists()
