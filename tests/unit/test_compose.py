"""deploy/compose.yaml by the compose specification, and what the platform asks of every service in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from fraud_platform.decision.api_keys import keys_path
from fraud_platform.gateway.config import COLOURS, DRAIN_SECONDS, needs_keys, render, servers
from fraud_platform.settings import Settings

FILE = Path(__file__).parents[2] / "deploy" / "compose.yaml"
DOCKERFILE = FILE.parent / "image" / "Dockerfile"
GRAFANA = FILE.parent / "grafana"
GIVEN = {
    "SERVICE_IMAGE": "fraud-detector:7-0",
    "PLATFORM_IMAGE": "fraud-detector-platform:0",
    "GATEWAY_IMAGE": "fraud-detector-gateway:0",
}
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


def settings_of(service: dict[str, Any]) -> Settings:
    """As a process of the service reads them."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in service["environment"].items():
            patch.setenv(name, str(value))
        return Settings(_env_file=None)


def test_the_settings_of_each_service_are_taken(services: dict[str, dict[str, Any]]) -> None:
    for name in ("blue", "green", "inference-log", "mlflow", "dagster-code"):
        settings = settings_of(services[name])
        assert settings.kafka_bootstrap == "kafka:9092", name
        assert not settings.packed_release_decides, name


def test_the_gateway_is_the_image_s_own_command_in_the_shared_home(services: dict[str, dict[str, Any]]) -> None:
    gateway, settings = services["gateway"], settings_of(services["gateway"])
    target = DOCKERFILE.read_text().partition("AS gateway\n")[2]
    (command,) = re.findall(r"^CMD (.*)$", target, re.MULTILINE)
    assert gateway["command"] == ["python3", "-m", *json.loads(command)]
    assert gateway["image"] == GIVEN["GATEWAY_IMAGE"]
    assert gateway["user"] == "10001:10001"
    assert f"home:{settings.home}" in gateway["volumes"]
    assert {service["environment"]["FRAUD_HOME"] for service in (gateway, services["blue"], services["green"])} == {
        str(settings.home)
    }
    assert int(gateway["stop_grace_period"].removesuffix("s")) > DRAIN_SECONDS + 2 + 10


def test_the_gateway_s_colours_are_services_and_the_ports_they_listen_on(services: dict[str, dict[str, Any]]) -> None:
    settings = settings_of(services["gateway"])
    for colour in COLOURS:
        (address,) = servers(settings, colour)
        name, _, port = address.rpartition(":")
        assert name == colour
        of_colour = settings_of(services[name])
        assert int(port) == of_colour.service_port
        assert of_colour.service_host == "0.0.0.0"
        assert f"//127.0.0.1:{port}/readyz" in services[name]["healthcheck"]["test"][-1]
        assert set(services[name]["networks"]) & set(services["gateway"]["networks"])
        assert name in services["gateway"]["depends_on"], "nginx starts with names that are known alone"
        assert f"server {address} weight=50" in render(settings, {"blue": 50, "green": 50})


def test_callers_reach_the_gateway_where_it_listens_and_is_looked_at(services: dict[str, dict[str, Any]]) -> None:
    gateway, settings = services["gateway"], settings_of(services["gateway"])
    assert settings.gateway_host == "0.0.0.0"
    (published,) = gateway["ports"]
    assert published.endswith(f":{settings.gateway_port}")
    assert f"https://127.0.0.1:{settings.gateway_port}/livez" in gateway["healthcheck"]["test"][-1]
    compile(gateway["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_the_gateway_has_the_service_s_keys_and_one_of_its_own(services: dict[str, dict[str, Any]]) -> None:
    settings = settings_of(services["gateway"])
    assert needs_keys(settings)
    keys = {"source": "api_keys", "target": str(keys_path(settings.home))}
    for name in ("gateway", *COLOURS):
        assert keys in services[name]["secrets"], name
    (reads,) = re.findall(r'FRAUD_API_KEY="\$\(cat /run/secrets/(\w+)\)"', services["gateway"]["entrypoint"][-1])
    assert reads in services["gateway"]["secrets"]


def test_what_the_colours_keep_by_process_id_is_each_one_s_own(services: dict[str, dict[str, Any]]) -> None:
    for colour in COLOURS:
        environment, own = services[colour]["environment"], services[colour]["tmpfs"]
        assert environment["BENTOML_HOME"].startswith("/tmp/")
        assert set(own) == {"/tmp", f"{environment['FRAUD_HOME']}/workers"}


def test_grafana_finds_the_dashboards_and_prometheus(document: dict[str, Any]) -> None:
    grafana = document["services"]["grafana"]
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "fraud.yml").read_text())["providers"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in grafana["volumes"]
    (told,) = yaml.safe_load(document["configs"]["datasource"]["content"])["datasources"]
    (alone,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert told == alone | {"url": "http://prometheus:9090"}
    assert set(document["services"]["prometheus"]["networks"]) & set(grafana["networks"])
