"""The image of the service: built, run read-only as its own user, and deciding beside a real Redis. `make test-image`."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import image_kit
import pytest
import redis
from service_kit import fill_online_store, free_port, publish_small_model
from test_service import payment, wait_until_ready

from fraud_platform.packaging.builder import Builder
from fraud_platform.packaging.image import Image, build_bento, build_service_image
from fraud_platform.packaging.requirements import serving_pins
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
WANTED = os.environ.get("FRAUD_TEST_IMAGE") == "yes"
WHY_NOT = image_kit.why_not() if WANTED else "an image takes minutes to build: `make test-image` builds and runs it"

pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))


@dataclass
class Built:
    """An image and the root file system in it."""

    image: Image
    root: Path
    home: Path
    booster: Any


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    home = tmp_path_factory.mktemp("image")
    booster = publish_small_model(home, version=7, seed=1)
    settings = Settings(home=home, image_base=image_kit.BASE, image_name="localhost/fraud-detector-test")
    patch = pytest.MonkeyPatch()
    patch.setenv("BENTOML_HOME", str(home / "bentoml"))
    try:
        image = build_service_image(settings, build_bento(settings), Builder("buildah"))
    finally:
        patch.undo()
    try:
        with image_kit.mounted(image.name) as root:
            yield Built(image, root, home, booster)
    finally:
        subprocess.run(["buildah", "rmi", image.name], check=True, capture_output=True)
        shutil.rmtree(home)


def test_it_decides_from_a_read_only_root_as_nobody_in_particular(built: Built, redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as client:
        fill_online_store(client)
    home, log, port = tmp_path / "home", tmp_path / "log", free_port()
    home.mkdir()
    settings = {"FRAUD_SERVICE_HOST": "127.0.0.1", "FRAUD_SERVICE_PORT": str(port), "FRAUD_REDIS_URL": redis_url}
    with (
        image_kit.running(built.image.name, built.root, home, log, **settings) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        wait_until_ready(http, process, log)
        answer = http.post("/v1/predict", json=payment(transaction_id="in-an-image")).json()
        explained = http.post("/v1/explain", json={"transaction_id": "in-an-image"})
    assert (answer["model_version"], answer["degraded"]) == ("fraud-detector/7", False)
    assert answer["served_by"] == {"user_features": "redis", "merchant_features": "redis", "model": "champion"}
    assert explained.status_code == 200
    owners = {path.stat().st_uid for path in home.rglob("*")}
    assert owners == {10001}, "everything that it wrote is in its home, and its own"


def test_it_runs_as_a_user_that_is_not_root_and_says_how_it_is_looked_at(built: Built) -> None:
    config = image_kit.configuration(built.image.name)
    assert config["User"] == "10001:10001"
    assert "livez" in " ".join(config["Healthcheck"]["Test"])
    assert config["Labels"]["fraud.model"] == "fraud-detector-7"
    assert set(config["Volumes"]) == {"/var/lib/fraud"}
    assert not any("key" in name.lower() or "password" in name.lower() for name in config["Env"])


def test_it_holds_the_lock_s_packages_and_neither_cuda_nor_a_compiler(built: Built) -> None:
    bill = json.loads(built.image.bill.read_text())
    libraries = {
        part["name"].lower().replace("_", "-"): part for part in bill["components"] if part["type"] == "library"
    }
    assert {name: part["version"] for name, part in libraries.items()} == {
        pin.name: pin.version for pin in serving_pins(ROOT)
    }
    assert (built.root / "app" / "sbom.cdx.json").read_text() == built.image.bill.read_text()
    names = {path.name for path in built.root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert {"gcc", "cc1", "pip", "pip3"} & names == set()
    assert [name for name in names if "nccl" in name or name.startswith("libcuda")] == []
