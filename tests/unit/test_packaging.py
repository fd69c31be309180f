"""What an image is made of: pins out of the lock, a release that starts a home, a bill of materials."""

import json
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from fraud_platform.gateway.config import TEMPLATE
from fraud_platform.model.bundle import current_release
from fraud_platform.model.ledger import read_ledger
from fraud_platform.packaging.builder import BuilderError, find_builder
from fraud_platform.packaging.image import PLATFORM_FILES
from fraud_platform.packaging.packed import BENTOFILE, CODE, content_version, packed_release, start_from
from fraud_platform.packaging.requirements import (
    CPU_LOCK,
    KUBERNETES_LOCK,
    LOCK,
    LockError,
    Pin,
    platform_pins,
    read_lock,
    requirements_text,
    serving_pins,
)
from fraud_platform.packaging.sbom import Component, bill_of_materials, installed, licence_list
from tests.integration.service_kit import publish_small_model

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
FOR_IMAGES_ALONE = {*read_lock(ROOT / CPU_LOCK), *read_lock(ROOT / KUBERNETES_LOCK)}
LEFT_OUT = {"nvidia-nccl-cu12", "xgboost"}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by(pins: list[Pin]) -> set[str]:
    """What the pinned packages themselves say that they need, here and without extras."""
    found = set()
    for pin in pins:
        try:
            declared = requires(pin.name) or []
        except PackageNotFoundError:
            assert pin.name in FOR_IMAGES_ALONE, "every other pin is of the project's own lock"
            continue
        for text in declared:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                found.add(normal(requirement.name))
    return found


def test_the_subset_for_serving_is_closed_and_pinned_as_the_lock_pins_it() -> None:
    lines = (ROOT / LOCK).read_text()
    pins = serving_pins(ROOT)
    names = {pin.name for pin in pins}
    assert needed_by(pins) - names <= LEFT_OUT
    assert names & LEFT_OUT == set()
    for pin in pins:
        if pin.name != "xgboost-cpu":
            assert f"\n{pin.text}\n" in f"\n{lines}\n", f"{pin.name} is the lock's, hashes included"


def test_serving_goes_without_what_trains_orchestrates_and_watches() -> None:
    names = {pin.name for pin in serving_pins(ROOT)}
    heavy = {"dagster", "mlflow", "feast", "evidently", "shap", "optuna", "pandas", "scikit-learn", "pytest", "uv"}
    assert names & heavy == set()
    assert {"bentoml", "numba", "redis", "confluent-kafka", "xgboost-cpu"} <= names


def test_the_platform_s_packages_are_all_but_the_developers() -> None:
    pins = platform_pins(ROOT)
    names = {pin.name for pin in pins}
    assert {"dagster", "dagster-webserver", "dagster-k8s", "mlflow", "feast", "xgboost-cpu", "scikit-learn"} <= names
    assert names & {"pytest", "pre-commit", "ruff", "hypothesis", "nvidia-nccl-cu12", "xgboost"} == set()
    assert needed_by(pins) - names <= LEFT_OUT


def test_the_gateway_s_template_travels_with_the_platform_s_code() -> None:
    assert str(TEMPLATE.relative_to(ROOT)) in PLATFORM_FILES


def test_xgboost_without_cuda_is_the_same_xgboost() -> None:
    assert read_lock(ROOT / CPU_LOCK)["xgboost-cpu"].version == read_lock(ROOT / LOCK)["xgboost"].version


def test_a_lock_without_hashes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("numpy==2.4.6\n    # via pandas\n")
    with pytest.raises(LockError, match="no hashes of \\['numpy'\\]"):
        read_lock(tmp_path / "lock")


def test_a_requirements_file_holds_every_pin_and_no_comment() -> None:
    text = requirements_text(serving_pins(ROOT))
    assert len(re.findall(r"^[a-z0-9._-]+==", text, re.MULTILINE)) == len(serving_pins(ROOT))
    assert "#" not in text


def test_what_bentoml_is_told_to_take_is_what_the_version_stands_for() -> None:
    assert tuple(yaml.safe_load((ROOT / BENTOFILE).read_text())["include"]) == CODE


def test_a_bento_s_version_follows_the_champion_alone_where_the_code_stays(tmp_path: Path) -> None:
    publish_small_model(tmp_path / "a", version=7, seed=1)
    publish_small_model(tmp_path / "b", version=7, seed=1)
    publish_small_model(tmp_path / "c", version=7, seed=2)
    first, same, other = (content_version(ROOT, tmp_path / name) for name in "abc")
    assert first == same
    assert first != other
    assert re.fullmatch(r"7-[0-9a-f]{12}", first)


@pytest.mark.parametrize(("decides", "expected"), [(False, "fraud-detector-9"), (True, "fraud-detector-7")])
def test_a_home_with_a_release_keeps_it_unless_the_packed_one_decides(
    tmp_path: Path, decides: bool, expected: str
) -> None:
    publish_small_model(tmp_path / "builder", version=7, seed=1)
    packed = current_release(tmp_path / "builder")
    home = tmp_path / "home"
    publish_small_model(home, version=9, seed=2)
    assert start_from(home, packed, decides=decides, now=NOW) == expected
    assert current_release(home).name == expected
    assert {folder.name for folder in (home / "releases").glob("fraud-*")} == {"fraud-detector-7", "fraud-detector-9"}
    assert [entry["to"] for entry in read_ledger(home)] == (["fraud-detector-7"] if decides else [])


def test_an_empty_home_starts_with_the_packed_release_once(tmp_path: Path) -> None:
    publish_small_model(tmp_path / "builder", version=7, seed=1)
    packed = current_release(tmp_path / "builder")
    for _ in range(2):
        assert start_from(tmp_path / "home", packed, decides=False, now=NOW) == "fraud-detector-7"
    assert [entry["at"] for entry in read_ledger(tmp_path / "home")] == [NOW.isoformat()]


def test_a_checkout_carries_no_release() -> None:
    assert packed_release(ROOT) is None


def test_the_bill_of_materials_names_what_is_installed(tmp_path: Path) -> None:
    info = tmp_path / "One_Two-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: One_Two\nVersion: 1.5\nLicense-Expression: MIT\n")
    parts = installed(tmp_path)
    assert parts == [Component("One_Two", "1.5", "MIT")]
    assert licence_list(parts) == "One_Two 1.5: MIT\n"
    bill = bill_of_materials(
        parts, name="fraud-detector", version="7-1", images=["python:3.11"], model=("m-7", "ab" * 32)
    )
    document = json.loads(bill)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    library, base, model = document["components"]
    assert library["purl"] == "pkg:pypi/one-two@1.5"
    assert library["licenses"] == [{"license": {"name": "MIT"}}]
    assert (base["type"], base["name"]) == ("container", "python:3.11")
    assert model["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    again = bill_of_materials(
        parts, name="fraud-detector", version="7-1", images=["python:3.11"], model=("m-7", "ab" * 32)
    )
    assert bill == again


def test_where_no_builder_works_the_reasons_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuilderError) as refusal:
        find_builder()
    assert "docker does not work (Cannot connect to the Docker daemon)" in str(refusal.value)
    assert "podman is not installed" in str(refusal.value)
