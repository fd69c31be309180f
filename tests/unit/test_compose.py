"""deploy/compose.yaml by the compose specification, and what the platform asks of every service in it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from fraud_platform.settings import Settings

FILE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
GIVEN = {"SERVICE_IMAGE": "fraud-detector:7-0", "PLATFORM_IMAGE": "fraud-detector-platform:0"}
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(?:(:[-?])([^{}]*))?\}")


def filled(text: str) -> str:
    """What compose makes of its variables: the given ones, else their defaults; a missing one that has none fails."""

    def value(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        if name in GIVEN:
            return GIVEN[name]
        assert kind == ":-", f"{name} has no value and no default"
        return str(default)

    while VARIABLE.search(text):
        text = VARIABLE.sub(value, text)
    return text.replace("$$", "$")


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(filled(FILE.read_text()))
    return loaded


@pytest.fixture(scope="module")
def services(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = document["services"]
    return found


def test_the_specification_takes_it_and_would_not_take_a_misspelt_key(document: dict[str, Any]) -> None:
    assert len(PyCompose.from_yaml(yaml.safe_dump(document)).service_names()) == len(document["services"])
    wrong = yaml.safe_load(filled(FILE.read_text()))
    wrong["services"]["redis"]["healthchek"] = {}
    with pytest.raises(ValueError, match="healthchek"):
        PyCompose.from_yaml(yaml.safe_dump(wrong))


def test_the_whole_platform_is_in_it(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {
        "gateway", "blue", "green", "redis", "postgres", "kafka", "inference-log", "mlflow", "dagster-home",
        "dagster-code", "dagster-webserver", "dagster-daemon", "prometheus", "alertmanager", "grafana",
    }  # fmt: skip


def test_every_service_is_watched_limited_and_without_rights(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        assert service["healthcheck"].get("test") or service["restart"] == "no", name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] or name == "kafka", name
        assert not service["image"].endswith(":latest"), name
        assert ":" in service["image"], name


def test_only_the_gateway_may_be_told_to_listen_beyond_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "mlflow", "dagster-webserver", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_secrets_are_files_and_none_is_written_here(document: dict[str, Any]) -> None:
    assert all(set(secret) == {"file"} for secret in document["secrets"].values())
    for service in document["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|KEY$|POSTGRES_URL", name)
            assert not secret or str(value).startswith("/run/secrets/"), name


def test_what_is_named_exists(document: dict[str, Any]) -> None:
    for name, service in document["services"].items():
        assert set(service["networks"]) <= set(document["networks"]), name
        assert set(service.get("depends_on", {})) <= set(document["services"]), name
        named = {volume.split(":")[0] for volume in service.get("volumes", []) if not volume.startswith((".", "/"))}
        assert named <= set(document["volumes"]), name
        sources = {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])}
        assert sources <= set(document["secrets"]), name
        settings = {key for key in service.get("environment", {}) if key.startswith("FRAUD_")}
        assert settings <= {f"FRAUD_{field.upper()}" for field in Settings.model_fields}, name


def test_the_settings_of_each_service_are_taken(services: dict[str, dict[str, Any]]) -> None:
    for name in ("blue", "green", "inference-log", "mlflow", "dagster-code"):
        environment = {key.removeprefix("FRAUD_").lower(): v for key, v in services[name]["environment"].items()}
        settings = Settings.model_validate(environment)
        assert settings.kafka_bootstrap == "kafka:9092", name
        assert not settings.packed_release_decides, name
