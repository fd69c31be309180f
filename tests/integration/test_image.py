"""The images of service and gateway: built, run read-only as their own user, deciding beside a real Redis.

`make test-image` runs it, in minutes: packages are fetched, compiled and copied.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import image_kit
import pytest
import redis
from service_kit import fill_online_store, free_port, publish_small_model
from test_service import payment, wait_until_ready

from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.model.ledger import read_ledger
from fraud_platform.packaging.builder import Builder
from fraud_platform.packaging.image import Image, build_bento, build_platform_images, build_service_image
from fraud_platform.packaging.requirements import serving_requirements
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
WANTED = os.environ.get("FRAUD_TEST_IMAGE") == "yes"
WHY_NOT = image_kit.why_not() if WANTED else "an image takes minutes to build: `make test-image` builds and runs it"

pytestmark = [pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)), pytest.mark.timeout(1_800)]


@dataclass
class Built:
    """An image and the root file system in it."""

    image: Image
    root: Path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A home with a small model, and names for what is built from it."""
    home = tmp_path_factory.mktemp("image")
    # packages are fetched and compiled once; `make clean` removes them
    kept = ROOT / "build" / "packaging"
    kept.mkdir(parents=True, exist_ok=True)
    (home / "packaging").symlink_to(kept)
    publish_small_model(home, version=7, seed=1)
    names = {"image_base": image_kit.BASE, "image_nginx": image_kit.NGINX, "image_name": "fraud-detector-test"}
    yield Settings(home=home, **names)
    shutil.rmtree(home)


@pytest.fixture(scope="module")
def built(workshop: Settings) -> Iterator[Built]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(workshop.home / "bentoml"))
        image = build_service_image(workshop, build_bento(workshop), Builder("buildah"))
    yield from unpacked(image)


@pytest.fixture(scope="module")
def gateway(workshop: Settings) -> Iterator[Built]:
    platform, image = build_platform_images(workshop, Builder("buildah"))
    yield from unpacked(image)
    subprocess.run(["buildah", "rmi", platform.name], check=True, capture_output=True)


def unpacked(image: Image) -> Iterator[Built]:
    try:
        with image_kit.mounted(image.name) as root:
            yield Built(image, root)
    finally:
        subprocess.run(["buildah", "rmi", image.name], check=True, capture_output=True)


@pytest.fixture
def redis_with_features(redis_url: str) -> str:
    with redis.Redis.from_url(redis_url) as client:
        fill_online_store(client)
    return redis_url


def wait_for_redis(http: httpx.Client) -> None:
    """A worker is ready to decide by its rules before it has reached Redis."""
    until(lambda: "redis" not in http.get("/readyz").json()["degraded"], lambda: http.get("/readyz").text, 10)


def until(condition: Callable[[], bool], why: Callable[[], str], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.05)


def service_settings(port: int, redis_url: str) -> dict[str, str]:
    return {"FRAUD_SERVICE_HOST": "127.0.0.1", "FRAUD_SERVICE_PORT": str(port), "FRAUD_REDIS_URL": redis_url}


def test_it_decides_from_a_read_only_root_as_nobody_in_particular(
    built: Built, redis_with_features: str, tmp_path: Path
) -> None:
    home, log, port = tmp_path / "home", tmp_path / "log", free_port()
    home.mkdir()
    settings = service_settings(port, redis_with_features)
    with (
        image_kit.running(built.image.name, built.root, home, log, **settings) as container,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http,
    ):
        wait_until_ready(http, container.process, log)
        wait_for_redis(http)
        answer = http.post("/v1/predict", json=payment(transaction_id="in-an-image")).json()
        explained = http.post("/v1/explain", json={"transaction_id": "in-an-image"})
    assert (answer["model_version"], answer["degraded"]) == ("fraud-detector/7", False)
    assert answer["served_by"] == {"user_features": "redis", "merchant_features": "redis", "model": "champion"}
    assert explained.status_code == 200
    owners = {path.stat().st_uid for path in home.rglob("*")}
    assert owners == {10001}, "everything that it wrote is in its home, and its own"


def test_the_gateway_decides_by_the_rules_and_is_switched_to_the_service_by_one_command(
    built: Built, gateway: Built, redis_with_features: str, tmp_path: Path
) -> None:
    home, logs, blue, green, port = tmp_path / "home", tmp_path, free_port(), free_port(), free_port()
    home.mkdir()
    key, _ = add_key(keys_path(home), "shop", ["decide"], datetime.now(UTC))
    for path in (home / "access", *(home / "access").iterdir()):
        os.chown(path, 10001, 10001)
    settings = {
        "FRAUD_GATEWAY_PORT": str(port),
        "FRAUD_GATEWAY_BLUE": json.dumps([f"127.0.0.1:{blue}"]),
        "FRAUD_GATEWAY_GREEN": json.dumps([f"127.0.0.1:{green}"]),
        "FRAUD_RULES_PORT": str(free_port()),
    }
    with (
        image_kit.running(gateway.image.name, gateway.root, home, logs / "gateway", **settings) as container,
        httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=False, timeout=10) as http,
    ):

        def decide(transaction: str) -> dict[str, Any]:
            said = http.post(
                "/v1/predict",
                json=payment(transaction_id=transaction),
                headers={"authorization": f"Bearer {key}"},
            )
            found: dict[str, Any] = said.json()
            return found

        def answers() -> bool:
            assert container.process.poll() is None, (logs / "gateway").read_text()
            try:
                return http.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(answers, (logs / "gateway").read_text)
        assert decide("by-the-rules")["served_by"]["model"] == "rules", "neither colour is there"
        tested = container.execute("nginx", "-t", "-p", "/var/lib/fraud/gateway", "-c", "nginx.conf", "-e", "stderr")
        assert "test is successful" in tested

        of_service = service_settings(green, redis_with_features)
        with image_kit.running(built.image.name, built.root, home, logs / "green", **of_service) as service:
            with httpx.Client(base_url=f"http://127.0.0.1:{green}", timeout=10) as direct:
                wait_until_ready(direct, service.process, logs / "green")
                wait_for_redis(direct)
            switch = ("gateway", "switch", "green", "--why", "the first release")
            said = container.execute("python3", "-m", "fraud_platform.cli", *switch)
            assert said.splitlines() == ["home /var/lib/fraud", "green gets every payment."]
            assert decide("by-the-model")["model_version"] == "fraud-detector/7"
        assert "Read-only file system" in container.execute("touch", "/app/code/x")
    (change,) = [entry for entry in read_ledger(home) if entry["what"] == "gateway"]
    assert (change["who"], change["to"]) == ("fraud by hand", {"green": 100})
    assert '"request":"POST /v1/predict","status":200' in (logs / "gateway").read_text(), "its log goes out"
    errors = (home / "gateway" / "error.log").read_text()
    assert not any(word in errors for word in ("[emerg]", "[alert]", "denied")), errors
    assert {path.stat().st_uid for path in home.rglob("*")} == {10001}


def test_they_run_as_a_user_that_is_not_root_and_say_how_they_are_looked_at(built: Built, gateway: Built) -> None:
    for image in (built, gateway):
        config = image_kit.configuration(image.image.name)
        assert config["User"] == "10001:10001"
        assert "livez" in " ".join(config["Healthcheck"]["Test"])
        assert set(config["Volumes"]) == {"/var/lib/fraud"}
        assert not any("key" in name.lower() or "password" in name.lower() for name in config["Env"])
    assert image_kit.configuration(built.image.name)["Labels"]["fraud.model"] == "fraud-detector-7"
    assert set(image_kit.configuration(gateway.image.name)["ExposedPorts"]) >= {"8443/tcp"}


def test_it_holds_the_lock_s_packages_and_neither_cuda_nor_a_compiler(built: Built) -> None:
    bill = json.loads(built.image.bill.read_text())
    libraries = {
        part["name"].lower().replace("_", "-"): part for part in bill["components"] if part["type"] == "library"
    }
    pinned = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", serving_requirements(ROOT), re.MULTILINE))
    assert {name: part["version"] for name, part in libraries.items()} == pinned
    assert (built.root / "app" / "sbom.cdx.json").read_text() == built.image.bill.read_text()
    names = {path.name for path in built.root.rglob("*") if path.is_file() and not path.is_symlink()}
    assert {"gcc", "cc1", "pip", "pip3"} & names == set()
    assert [name for name in names if "nccl" in name or name.startswith("libcuda")] == []


def test_the_gateway_s_bill_names_the_images_that_it_is_made_of(workshop: Settings, gateway: Built) -> None:
    bill = json.loads((gateway.root / "app" / "sbom.cdx.json").read_text())
    images = {part["name"] for part in bill["components"] if part["type"] == "container"}
    assert images == {gateway.image.base, workshop.image_nginx}
    assert gateway.image.base.startswith("fraud-detector-test-platform:")
