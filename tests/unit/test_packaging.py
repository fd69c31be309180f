"""What an image is made of: pins out of the lock, a release that starts a home, a bill of materials."""

import json
import re
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, distribution, requires
from itertools import accumulate
from pathlib import Path

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement

from fraud_platform.gateway.config import TEMPLATE
from fraud_platform.model.bundle import current_release
from fraud_platform.model.ledger import read_ledger
from fraud_platform.packaging.builder import BuilderError, find_builder
from fraud_platform.packaging.image import PLATFORM_FILES
from fraud_platform.packaging.packed import BENTOFILE, CODE, content_version, packed_release, start_from
from fraud_platform.packaging.requirements import platform_requirements, serving_requirements
from fraud_platform.packaging.sbom import Component, bill_of_materials, installed, licence_list
from tests.integration.service_kit import publish_small_model
from tests.unit.test_architecture import imports, modules

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 25, 9, tzinfo=UTC)
LEFT_OUT = {"nvidia-nccl-cu12", "xgboost"}
PLATFORM_ALONE = {
    "dagster-k8s", "dagster-postgres", "durationpy", "kubernetes", "oauthlib", "psycopg2-binary", "requests-oauthlib",
    "websocket-client", "xgboost-cpu",
}  # fmt: skip
"""What runs on Kubernetes alone, and XGBoost without CUDA: not in the project's own lock."""


def pins(lock: str) -> dict[str, str]:
    """A lock's packages by name: version and hashes, as they stand there."""
    return {
        normal(Requirement(block.splitlines()[0].rstrip(" \\")).name): re.sub(r"\n +#.*", "", block).strip()
        for block in re.split(r"\n(?=[a-z0-9])", lock.strip())
    }


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed_by(names: Iterable[str]) -> set[str]:
    """What the packages themselves say that they need, here and without extras."""
    found = set()
    for name in names:
        try:
            declared = requires(name) or []
        except PackageNotFoundError:
            assert name in PLATFORM_ALONE, "every other package is of the project's own lock"
            continue
        for text in declared:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                found.add(normal(requirement.name))
    return found


@pytest.mark.parametrize("requirements", [serving_requirements, platform_requirements])
def test_an_image_s_packages_are_closed_and_pinned_as_the_project_s_lock_pins_them(
    requirements: Callable[[Path], str],
) -> None:
    own, found = pins((ROOT / "requirements.lock").read_text()), pins(requirements(ROOT))
    assert needed_by(found) - found.keys() <= LEFT_OUT
    assert found.keys() & LEFT_OUT == set()
    assert found.keys() - own.keys() <= PLATFORM_ALONE
    for name in found.keys() & own.keys():
        assert found[name] == own[name], f"{name} is the lock's, hashes included: write all with `make lock`"
    assert all("--hash=sha256:" in text for text in found.values())
    (version,) = re.findall(r"^xgboost==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert found["xgboost-cpu"].startswith(f"xgboost-cpu=={version} "), "the same XGBoost, without CUDA"


def test_serving_has_what_its_modules_import() -> None:
    names = pins(serving_requirements(ROOT)).keys() - PLATFORM_ALONE
    files = {file.with_suffix("").as_posix() for name in names for file in distribution(name).files or ()}
    provided = {file.removesuffix("/__init__").replace("/", ".") for file in files}
    foreign = {
        name
        for path in modules("bento")
        for name, _ in imports(path)
        if name.split(".")[0] not in {*sys.stdlib_module_names, "bento", "fraud_platform"}
    }
    assert "opentelemetry.exporter.otlp.proto.http.trace_exporter" in foreign
    namespaces = {parent for name in provided for parent in accumulate(name.split("."), "{}.{}".format)}
    # a name that is imported from a module is no module itself
    assert {name for name in foreign if not {name, name.rpartition(".")[0]} & (provided | namespaces)} == set()


def test_serving_goes_without_what_trains_orchestrates_and_watches() -> None:
    names = pins(serving_requirements(ROOT)).keys()
    heavy = {"dagster", "mlflow", "feast", "evidently", "shap", "optuna", "pandas", "scikit-learn", "pytest", "uv"}
    assert names & heavy == set()
    assert {"bentoml", "numba", "redis", "confluent-kafka", "xgboost-cpu"} <= names


def test_the_platform_s_packages_are_all_but_the_developers() -> None:
    names = pins(platform_requirements(ROOT)).keys()
    assert {"dagster", "dagster-webserver", "dagster-k8s", "mlflow", "feast", "xgboost-cpu", "scikit-learn"} <= names
    assert names & {"pytest", "pre-commit", "ruff", "hypothesis"} == set()


def test_the_gateway_s_template_travels_with_the_platform_s_code() -> None:
    assert str(TEMPLATE.relative_to(ROOT)) in PLATFORM_FILES


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
    other = tmp_path / "Three-3.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: Three\nVersion: 3\nLicense: Three's own\n")
    parts = installed(tmp_path)
    assert parts == [Component("One_Two", "1.5", "MIT"), Component("Three", "3", "Three's own")]
    assert licence_list(parts) == "One_Two 1.5: MIT\nThree 3: Three's own\n"

    def written(at: datetime = NOW) -> str:
        images = ["python:3.11", "nginx:1"]
        return bill_of_materials(
            parts, name="fraud-detector", version="7-1", at=at, images=images, model=("m-7", "ab" * 32)
        )

    document = json.loads(written())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["version"] == "7-1"
    found = {part["name"]: part for part in document["components"]}
    assert {name: part["type"] for name, part in found.items()} == {
        "One_Two": "library", "Three": "library", "m-7": "machine-learning-model", "nginx:1": "container",
        "python:3.11": "container",
    }  # fmt: skip
    assert found["One_Two"]["purl"] == "pkg:pypi/one-two@1.5"
    assert found["One_Two"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert found["Three"]["licenses"] == [{"license": {"name": "Three's own"}}]
    assert found["m-7"]["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    assert written() == written(), "the same content is the same document"
    assert written() != written(NOW + timedelta(days=1))
    (depends, *_) = (each for each in document["dependencies"] if "dependsOn" in each)
    assert len(depends["dependsOn"]) == 5
    validated = JsonStrictValidator(SchemaVersion.V1_5).validate_str(written())
    assert validated is None, validated


def test_where_no_builder_works_the_reasons_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BuilderError) as refusal:
        find_builder()
    assert "docker does not work (Cannot connect to the Docker daemon)" in str(refusal.value)
    assert "podman is not installed" in str(refusal.value)
