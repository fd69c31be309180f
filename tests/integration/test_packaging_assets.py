"""Packaging in Dagster: each release in force is packaged once, and where nothing builds images that is said."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest
from service_kit import publish_small_model

from assets.definitions import build_definitions
from assets.packaging import champion_bento, fraud_image
from assets.resources import Platform
from fraud_platform.settings import Settings

NOW = datetime(2026, 3, 6, 4, tzinfo=UTC)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home on a machine without a builder of images."""
    monkeypatch.setenv("FRAUD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return tmp_path / "home"


def materialized(instance: dg.DagsterInstance, asset: dg.AssetsDefinition) -> dict[str, object]:
    resources = {"platform": Platform(Settings(), NOW)}
    assert dg.materialize([asset], instance=instance, resources=resources, selection=[asset.key]).success
    event = instance.get_latest_materialization_event(asset.key)
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def test_the_champion_becomes_a_bento_and_no_image_where_nothing_builds_one(
    home: Path, instance: dg.DagsterInstance
) -> None:
    assert "no model has been released" in str(materialized(instance, champion_bento)["skipped"])
    publish_small_model(home, version=7, seed=1)
    made = materialized(instance, champion_bento)
    assert made["release"] == "fraud-detector-7"
    assert Path(str(made["folder"]), "src", "release", "fraud-detector-7", "model.ubj").is_file()
    skipped = str(materialized(instance, fraud_image)["skipped"])
    assert "docker is not installed" in skipped
    assert "buildah is not installed" in skipped


def test_each_release_that_comes_into_force_is_packaged_once(home: Path, instance: dg.DagsterInstance) -> None:
    repository = build_definitions(Settings(), NOW).get_repository_def()
    sensor = repository.get_sensor_def("packages_the_champion")
    cursor: str | None = None

    def requested() -> list[str]:
        nonlocal cursor
        with dg.build_sensor_context(instance=instance, cursor=cursor, repository_def=repository) as context:
            data = sensor.evaluate_tick(context)
        cursor = data.cursor
        return [request.tags["fraud/release"] for request in data.run_requests or []]

    assert requested() == []
    publish_small_model(home, version=7, seed=1)
    assert requested() == ["fraud-detector-7"]
    assert requested() == []
    publish_small_model(home, version=8, seed=2)
    assert requested() == ["fraud-detector-8"]
