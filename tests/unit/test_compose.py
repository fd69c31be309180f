"""deploy/compose.yaml by the compose specification, and what the platform asks of every service in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose
from typer.testing import CliRunner

from fraud_platform.cli import app
from fraud_platform.decision.api_keys import keys_path
from fraud_platform.gateway.config import COLOURS, DRAIN_SECONDS, needs_keys, render, servers
from fraud_platform.run.home import Home
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


def mounts(service: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Source with its part of the volume, target, and ro or rw."""
    found = []
    for volume in service.get("volumes", []):
        if isinstance(volume, str):
            source, target, *mode = volume.split(":")
            found.append((source, target, *(mode or ["rw"])))
        else:
            assert volume["type"] == "volume"
            found.append((volume["source"], volume["target"], "ro" if volume.get("read_only") else "rw"))
    return found


def peers(services: dict[str, dict[str, Any]], name: str) -> set[str]:
    """Whom a service shares a network with."""
    mine = set(services[name]["networks"])
    return {other for other, service in services.items() if other != name and mine & set(service["networks"])}


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
        assert not service.get("privileged"), name
        assert not {"pid", "ipc", "network_mode", "devices", "cap_add"} & set(service), name


def test_every_image_may_be_given_by_its_digest() -> None:
    images = re.findall(r"^ +image: (.*)$", FILE.read_text(), re.MULTILINE)
    assert len(images) == 10
    assert all(re.fullmatch(r"\$\{[A-Z]+_IMAGE:[?-].+\}", image) for image in images), images


def test_only_the_gateway_may_be_told_to_listen_beyond_loopback(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert set(published) == {"gateway", "mlflow", "dagster-webserver", "grafana"}
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_secrets_are_files_and_none_is_written_here(document: dict[str, Any]) -> None:
    assert all(set(secret) == {"file"} for secret in document["secrets"].values())
    for service in document["services"].values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("PASSWORD|SECRET|KEY$|POSTGRES_URL|REDIS_URL|OPTIONS|JAAS", name)
            assert not secret or str(value).startswith("/run/secrets/"), name
        # what a start script or a health check reads, its container is given
        scripts = [*service.get("entrypoint", []), *(service["healthcheck"].get("test") or [])]
        read = set(re.findall(r"/run/secrets/(\w+)", " ".join(map(str, scripts))))
        given = {secret if isinstance(secret, str) else secret["source"] for secret in service.get("secrets", [])}
        assert read <= given


def test_the_gateway_reaches_the_two_colours_and_nobody_else(services: dict[str, dict[str, Any]]) -> None:
    assert peers(services, "gateway") == {"blue", "green"}


def test_a_store_is_reached_by_those_that_need_it_and_asks_for_a_password(services: dict[str, dict[str, Any]]) -> None:
    of_stores = {"blue", "green", "inference-log", "dagster-code"}
    assert peers(services, "redis") == of_stores | {"postgres"}
    assert peers(services, "postgres") == of_stores | {"redis"}
    assert peers(services, "kafka") == {"inference-log", "dagster-code"}
    assert "requirepass" in services["redis"]["entrypoint"][-1]
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD_FILE"].startswith("/run/secrets/")
    kafka = services["kafka"]["environment"]
    protocols = dict(each.split(":") for each in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    for listener in kafka["KAFKA_LISTENERS"].split(","):
        name, _, address = listener.partition("://")
        assert protocols[name].startswith("SASL_") or address.startswith("localhost:"), listener
    # whoever is with a store has what opens it, or has no business there
    for name in of_stores:
        assert {"postgres_url", "redis_url", "kafka_options"} <= {
            each for each in services[name]["secrets"] if isinstance(each, str)
        }


def test_dagster_and_mlflow_are_reached_by_their_own_alone(services: dict[str, dict[str, Any]]) -> None:
    platform = {"mlflow", "dagster-home", "dagster-code", "dagster-webserver", "dagster-daemon"}
    for name in ("mlflow", "dagster-webserver", "dagster-daemon"):
        assert peers(services, name) == platform - {name}


def test_nobody_is_reached_by_way_of_a_network_that_leads_outside(document: dict[str, Any]) -> None:
    together: dict[str, set[str]] = {}
    for name, service in document["services"].items():
        for network in service["networks"]:
            if not document["networks"][network].get("internal"):
                together.setdefault(network, set()).add(name)
    assert together == {
        "callers": {"gateway"}, "people": {"mlflow", "dagster-webserver"}, "boards": {"grafana"},
        "web": {"dagster-code"}, "hooks": {"alertmanager"},
    }  # fmt: skip
    # a port is published on a network that is not internal
    for name, service in document["services"].items():
        assert "ports" not in service or any(name in inside for inside in together.values()), name


def test_the_gateway_mounts_what_it_needs_and_the_policy_to_read(services: dict[str, dict[str, Any]]) -> None:
    home = settings_of(services["gateway"]).home
    assert mounts(services["gateway"]) == [
        ("gateway", str(home), "rw"), ("home", f"{home}/gateway", "rw"), ("home", f"{home}/policy", "ro"),
    ]  # fmt: skip
    parts = {volume["target"]: volume["volume"]["subpath"] for volume in services["gateway"]["volumes"][1:]}
    assert parts == {f"{home}/gateway": "gateway", f"{home}/policy": "policy"}
    # which are there before it starts, or the engine would refuse it
    assert services["gateway"]["depends_on"]["dagster-home"] == {"condition": "service_completed_successfully"}


def test_the_folders_that_the_gateway_mounts_are_made_with_the_home(tmp_path: Path) -> None:
    (tmp_path / "dagster").mkdir()
    Home(tmp_path).prepare()
    assert {"gateway", "policy"} <= {folder.name for folder in tmp_path.iterdir()}


def test_a_command_makes_the_stores_secrets_once_and_keeps_them(tmp_path: Path, document: dict[str, Any]) -> None:
    folder = tmp_path / "secrets"
    run = CliRunner().invoke(app, ["compose-secrets", str(folder)])
    assert run.exit_code == 0
    named = {Path(secret["file"]).name for secret in document["secrets"].values()}
    assert named - {path.name for path in folder.iterdir()} == {"api_keys.json", "gateway_key"}
    content = {path.name: path.read_text() for path in folder.iterdir()}
    assert not any(secret in run.output for secret in content.values())
    passwords = {name: text for name, text in content.items() if name.endswith("_password")}
    assert len(set(passwords.values())) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", text) for text in passwords.values())
    assert content["redis_url"] == f"redis://:{passwords['redis_password']}@redis:6379/0"
    assert f'user_fraud="{passwords["kafka_password"]}"' in content["kafka_jaas"]
    options = json.loads(content["kafka_options"])
    assert (options["sasl.username"], options["sasl.password"]) == ("fraud", passwords["kafka_password"])
    settings = Settings(
        _env_file=None, redis_url=content["redis_url"], postgres_url=content["postgres_url"], kafka_options=options
    )
    assert settings.redis_url == content["redis_url"]
    # others cannot enter the folder; each container's own user can read its file
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o444}
    again = CliRunner().invoke(app, ["compose-secrets", str(folder)])
    assert "has all of them" in again.output
    assert {path.name: path.read_text() for path in folder.iterdir()} == content
    folder.chmod(0o755)
    assert "others may enter" in CliRunner().invoke(app, ["compose-secrets", str(folder)]).output


def test_what_is_named_exists(document: dict[str, Any]) -> None:
    for name, service in document["services"].items():
        assert set(service["networks"]) <= set(document["networks"]), name
        assert set(service.get("depends_on", {})) <= set(document["services"]), name
        named = {source for source, _, _ in mounts(service) if not source.startswith((".", "/"))}
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
