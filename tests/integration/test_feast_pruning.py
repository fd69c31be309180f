"""Feast's registry forgets the packed views of sets that nobody needs any more, and no other. Real Feast, Redis and
PostgreSQL."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pytest
import redis
from feast_snapshots import write_snapshots
from service_kit import small_model
from typer.testing import CliRunner

from assets.resources import Platform
from assets.retention import retention
from feature_repo import store, views
from feature_repo.pruning import RegisteredView, unneeded_views
from fraud_platform.cli import app
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.catalogue import DAY as DAY_US
from fraud_platform.homes import begin_home
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import publish
from fraud_platform.online.cold_writer import RECORDS, put_cold_in_force
from fraud_platform.online.embedded_postgres import ensure_postgres, stop_postgres
from fraud_platform.online.other_views import OtherView, delete_unread, load_other
from fraud_platform.online.packed import VIEWS, packed_view, views_of
from fraud_platform.online.snapshot_load import load_snapshot_feast
from fraud_platform.settings import Settings

DAY = date(2026, 3, 4)
LOADED_AT = 1_772_700_000_000_000
FEWER = CATALOGUE.only([name for name in CATALOGUE.names if name != "user_night_share_30d"])
"""The set of the version before, whose user view is another."""
OLD = packed_view("user", FEWER)
UNNEEDED = [RegisteredView(OLD.name, CATALOGUE.hash)]
"""The tag is that of the code which registers, here this one's."""


@pytest.fixture(scope="module")
def settings(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A home whose views a version on FEWER registered and loaded, and then this one."""
    settings = Settings(home=tmp_path_factory.mktemp("feast") / "home", redis_url=redis_server, online_ttl_days=3)
    begin_home(settings.home)
    lake = open_lake(settings)
    write_snapshots(lake, DAY, 50)
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(views, "VIEWS", views_of(FEWER))
        store.apply(settings)
        Path(settings.home, "feast", "applied").unlink()
    store.write_source(settings, OLD, lake.read("user_features/" + CATALOGUE.hash, DAY).select(["user_id"]))
    for view in VIEWS:
        load_snapshot_feast(settings, lake, view, DAY, now=lambda: LOADED_AT)
    yield settings
    stop_postgres(settings)


@pytest.fixture
def client(settings: Settings) -> Iterator[redis.Redis]:
    assert settings.redis_url is not None
    with redis.Redis.from_url(settings.redis_url) as client:
        yield client


def registered(settings: Settings) -> set[str]:
    return {view.name for view in store.open_store(settings).list_feature_views()}


def test_a_view_that_nobody_has_any_more_is_not_needed(settings: Settings) -> None:
    assert OLD.name in registered(settings)
    assert unneeded_views(settings) == UNNEEDED


def test_a_view_that_a_version_of_before_loads_is_needed(
    settings: Settings, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake: Lake = open_lake(settings)
    record = load_other(settings, lake, client, OtherView(OLD, FEWER.hash), DAY, lambda: LOADED_AT)
    assert unneeded_views(settings) == []
    assert delete_unread(client, 3, LOADED_AT + 3 * DAY_US + 1) == [OLD.name]
    with psycopg.connect(ensure_postgres(settings)) as connection:
        put_cold_in_force(connection, record)
    assert unneeded_views(settings) == []
    with psycopg.connect(ensure_postgres(settings)) as connection:
        connection.execute(f"DELETE FROM {RECORDS}")  # type: ignore[arg-type]
    assert unneeded_views(settings) == UNNEEDED


def test_a_view_that_a_release_in_force_stands_on_is_needed(settings: Settings) -> None:
    pointer = settings.home / "releases" / "current.json"
    _, bundle = small_model(version=1, seed=1, deciding="amount", catalogue=FEWER)
    bundle.write(settings.home / "made")
    publish(settings.home, settings.home / "made")
    assert unneeded_views(settings) == []
    pointer.unlink()
    assert unneeded_views(settings) == UNNEEDED


def test_the_dry_run_shows_it_and_the_nightly_job_forgets_it_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("home", "redis_url", "online_ttl_days"):
        monkeypatch.setenv(f"FRAUD_{name.upper()}", str(getattr(settings, name)))
    said = CliRunner().invoke(app, ["prune"])
    assert said.exit_code == 0, said.output
    assert f"Would forget the view {OLD.name} of set {CATALOGUE.hash} in Feast's registry." in said.output
    before = registered(settings)
    source = Path(store._source(settings, OLD.name))
    assert source.exists()

    platform = Platform(settings, datetime.fromtimestamp(LOADED_AT / 1e6, UTC))
    for _ in range(2):
        assert retention.execute_in_process(resources={"platform": platform}).success
        assert registered(settings) == before - {OLD.name}
        assert not source.exists()
    sources = {each.name for each in store.open_store(settings).list_data_sources()}
    assert f"{OLD.name}_source" not in sources
    assert {f"{view.name}_source" for view in VIEWS} <= sources
    assert not store.apply(settings), "what is the platform's own stands as it was registered"
    assert "Would forget" not in CliRunner().invoke(app, ["prune"]).output


def test_a_home_without_a_registry_asks_no_store(tmp_path: Path) -> None:
    nowhere = Settings(home=tmp_path, redis_url="redis://127.0.0.1:1/0")
    assert unneeded_views(nowhere) == []
