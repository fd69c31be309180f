"""The Helm chart: rendered by Helm itself into a golden file, and what the platform asks of every pod in it.

Helm is fetched by `make test-chart`; where it is not on PATH, the golden file is held against the chart by a digest.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_platform.gateway.config import DRAIN_SECONDS, certificate_files, render, servers
from fraud_platform.run.home import RETENTION_YAML
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "fraud-platform"
GOLDEN = ROOT / "tests" / "golden" / "chart.yaml"
RULES = ROOT / "deploy" / "prometheus" / "rules"
DASHBOARDS = ROOT / "deploy" / "grafana" / "dashboards"
VALUES = [
    f"image.service=registry.example/fraud-detector@sha256:{7:064x}",
    f"image.platform=registry.example/fraud-platform@sha256:{8:064x}",
    f"image.gateway=registry.example/fraud-gateway@sha256:{9:064x}",
    "network.stores.redis.to[0].ipBlock.cidr=10.9.0.1/32",
    "network.stores.postgres.to[0].ipBlock.cidr=10.9.0.2/32",
    r"network.stores.kafka.to[0].namespaceSelector.matchLabels.kubernetes\.io/metadata\.name=kafka",
    "network.stores.kubernetes.to[0].ipBlock.cidr=10.9.0.3/32",
]
HELM = shutil.which("helm")
OPTIONS = ["--namespace", "fraud", "--kube-version", "1.30.0"]
SET = [f"--set={value}" for value in VALUES]
WORKLOADS = {"Deployment", "StatefulSet"}
DAGSTER = ("dagster-code", "dagster-webserver", "dagster-daemon")

Document = dict[str, Any]


def digest() -> str:
    # as Helm does, into the links to rules and dashboards
    files = sorted(Path(folder) / name for folder, _, names in os.walk(CHART, followlinks=True) for name in names)
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in files)).hexdigest()


def helm(*arguments: str) -> str:
    assert HELM is not None
    done = subprocess.run([HELM, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [document for document in yaml.safe_load_all(GOLDEN.read_text()) if document]


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for document in documents:
        if document["kind"] in WORKLOADS:
            yield document["metadata"]["name"], document["spec"]["template"]


def of_kind(documents: list[Document], kind: str) -> dict[str, Document]:
    return {document["metadata"]["name"]: document for document in documents if document["kind"] == kind}


@pytest.mark.skipif(HELM is None, reason="helm is not on PATH: `make test-chart` fetches it and renders the chart")
def test_helm_renders_the_golden_file_and_finds_nothing_to_complain_about() -> None:
    assert "0 chart(s) failed" in helm("lint", str(CHART), *OPTIONS, *SET)
    rendered = f"# chart {digest()}\n{helm('template', 'fraud', str(CHART), *OPTIONS, *SET)}"
    if os.environ.get("UPDATE_GOLDEN") == "yes":
        GOLDEN.write_text(rendered)
    assert rendered == GOLDEN.read_text(), "UPDATE_GOLDEN=yes make test-chart accepts the chart as it is now"


@pytest.mark.skipif(HELM is None, reason="helm is not on PATH: `make test-chart` fetches it and renders the chart")
def test_without_an_image_it_is_said_which_one_is_missing() -> None:
    assert HELM is not None
    done = subprocess.run(
        [HELM, "template", "fraud", str(CHART), *OPTIONS], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "fraud-platform package" in done.stderr


@pytest.mark.skipif(HELM is None, reason="helm is not on PATH: `make test-chart` fetches it and renders the chart")
def test_with_a_control_store_no_deciding_pod_shares_a_volume_and_each_part_has_its_own_role() -> None:
    control = ["--set=control.enabled=true", "--set=network.stores.control.to[0].ipBlock.cidr=10.9.0.5/32"]
    rendered = list(yaml.safe_load_all(helm("template", "fraud", str(CHART), *OPTIONS, *SET, *control)))
    named: dict[str, str] = {}
    for name, pod in pods([document for document in rendered if document]):
        if name in ("fraud-decision", "fraud-gateway"):
            assert not [volume for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume], name
        for container in pod["spec"]["containers"]:
            for variable in container["env"]:
                if variable["name"] == "FRAUD_CONTROL_URL":
                    named[f"{name}/{container['name']}"] = variable["valueFrom"]["secretKeyRef"]["name"]
    assert named == {
        "fraud-decision/decision": "fraud-addresses",
        "fraud-gateway/gateway": "fraud-gateway-control",
        **{f"fraud-{part}/{part}": "fraud-addresses" for part in DAGSTER},
    }
    (out,) = [each["spec"]["egress"] for each in rendered if each and each["metadata"]["name"] == "fraud-gateway"
              and each["kind"] == "NetworkPolicy"]  # fmt: skip
    assert [rule["to"] for rule in out][1:] == [[{"ipBlock": {"cidr": "10.9.0.5/32"}}]]


def test_the_golden_file_is_of_this_chart() -> None:
    assert GOLDEN.read_text().splitlines()[0] == f"# chart {digest()}", "UPDATE_GOLDEN=yes make test-chart"


def test_the_platform_s_parts_are_there(documents: list[Document]) -> None:
    assert {name for name, _ in pods(documents)} == {
        f"fraud-{part}"
        for part in (
            *("gateway", "decision", "consume", "measure", "mlflow"),
            *DAGSTER,
        )
    }


def test_no_pod_is_root_writes_to_its_image_or_has_rights(documents: list[Document]) -> None:
    for name, pod in pods(documents):
        assert pod["spec"]["securityContext"]["runAsNonRoot"], name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        speaks = name.startswith("fraud-dagster")
        assert pod["spec"]["automountServiceAccountToken"] is speaks, f"{name}: only Dagster speaks to Kubernetes"
        for container in pod["spec"]["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"], name
            assert not security["allowPrivilegeEscalation"], name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert {"requests", "limits"} <= set(container["resources"]), name
            assert "livenessProbe" in container, name


def test_no_service_s_address_is_taken_for_a_setting(documents: list[Document]) -> None:
    """Kubernetes would say FRAUD_GATEWAY_PORT=tcp://… for a Service `fraud-gateway`."""
    launcher = yaml.safe_load(of_kind(documents, "ConfigMap")["fraud-dagster"]["data"]["dagster.yaml"])["run_launcher"]
    runs = launcher["config"]["run_k8s_config"]["pod_spec_config"]
    assert not any(spec["enableServiceLinks"] for spec in (runs, *(pod["spec"] for _, pod in pods(documents))))


def test_what_a_pod_mounts_it_has_and_what_a_selector_wants_its_pods_are(documents: list[Document]) -> None:
    for document in documents:
        if document["kind"] in WORKLOADS:
            spec = document["spec"]
            claims = {claim["metadata"]["name"] for claim in spec.get("volumeClaimTemplates", [])}
            volumes = claims | {volume["name"] for volume in spec["template"]["spec"]["volumes"]}
            for container in spec["template"]["spec"]["containers"]:
                assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()
    labels = [pod["metadata"]["labels"] for _, pod in pods(documents)]
    containers = [container for _, pod in pods(documents) for container in pod["spec"]["containers"]]
    ports = {port["name"] for container in containers for port in container.get("ports", [])}
    for name, service in of_kind(documents, "Service").items():
        assert sum(service["spec"]["selector"].items() <= own.items() for own in labels) == 1, name
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports, name


def test_the_service_drains_before_it_ends_and_is_asked_whether_it_is_ready(documents: list[Document]) -> None:
    (decision,) = of_kind(documents, "StatefulSet").values()
    spec = decision["spec"]["template"]["spec"]
    service = spec["containers"][0]
    assert service["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert service["livenessProbe"]["httpGet"]["path"] == "/livez"
    drain = int(service["lifecycle"]["preStop"]["exec"]["command"][1])
    assert 0 < drain < spec["terminationGracePeriodSeconds"] - 10


def test_the_gateway_is_several_asked_over_tls_and_drains_before_it_ends(documents: list[Document]) -> None:
    gateway = of_kind(documents, "Deployment")["fraud-gateway"]["spec"]
    pod = gateway["template"]["spec"]
    (container,) = pod["containers"]
    for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "https", "scheme": "HTTPS"}
    drain = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert drain + DRAIN_SECONDS + 2 + 10 < pod["terminationGracePeriodSeconds"]
    assert pod["topologySpreadConstraints"][0]["labelSelector"] == gateway["selector"]
    assert "replicas" not in gateway, "an upgrade would undo what the autoscaler has set"
    assert of_kind(documents, "HorizontalPodAutoscaler")["fraud-gateway"]["spec"]["minReplicas"] >= 2


def test_what_stands_in_a_payment_s_way_is_never_wholly_gone(documents: list[Document]) -> None:
    budgets = of_kind(documents, "PodDisruptionBudget")
    workloads = of_kind(documents, "Deployment") | of_kind(documents, "StatefulSet")
    assert set(budgets) == {"fraud-decision", "fraud-gateway"}
    for name, budget in budgets.items():
        assert budget["spec"] == {"maxUnavailable": 1, "selector": workloads[name]["spec"]["selector"]}


def test_they_grow_by_processor_and_the_service_by_latency(documents: list[Document]) -> None:
    scalers = of_kind(documents, "HorizontalPodAutoscaler")
    cpu, latency = scalers["fraud-decision"]["spec"]["metrics"]
    assert cpu["containerResource"]["target"]["averageUtilization"] == 70
    assert latency["pods"]["metric"]["name"].startswith("fraud_decision_seconds")
    (cpu,) = scalers["fraud-gateway"]["spec"]["metrics"]
    assert cpu["resource"]["target"]["averageUtilization"] == 70
    cpu, lag = scalers["fraud-consume"]["spec"]["metrics"]
    assert cpu["containerResource"]["container"] == "consume"
    assert lag["pods"] == {
        "metric": {"name": "fraud_log_lag_records"}, "target": {"type": "AverageValue", "averageValue": "20000"},
    }  # fmt: skip
    consume = of_kind(documents, "Deployment")["fraud-consume"]["spec"]
    assert "replicas" not in consume
    assert consume["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    for scaler in scalers.values():
        target = scaler["spec"]["scaleTargetRef"]
        assert target["name"] in of_kind(documents, target["kind"])


def test_the_gateway_s_settings_are_taken_and_its_upstream_is_the_decision_service(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    pod = of_kind(documents, "Deployment")["fraud-gateway"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable.get("value", "of a secret"))
    settings = Settings(_env_file=None)
    (port,) = container["ports"]
    assert port == {"name": "https", "containerPort": settings.gateway_port}
    (address,) = servers(settings, "blue")
    assert servers(settings, "green") == []
    name, _, number = address.rpartition(":")
    (behind,) = of_kind(documents, "Service")[name]["spec"]["ports"]
    assert behind["port"] == int(number)
    assert f"server {address} weight=100" in render(settings, {"blue": 100})
    secrets = {volume["name"] for volume in pod["volumes"] if "secret" in volume}
    folders = {Path(mount["mountPath"]) for mount in container["volumeMounts"] if mount["name"] in secrets}
    assert folders == {*{file.parent for file in certificate_files(settings)}, Path("/var/lib/fraud/access")}
    assert "of a secret" not in (settings.redis_url, settings.postgres_url), "it knows no store"


def test_callers_come_by_the_gateway_alone(documents: list[Document]) -> None:
    kinds = {name: service["spec"].get("type", "ClusterIP") for name, service in of_kind(documents, "Service").items()}
    assert {name for name, kind in kinds.items() if kind != "ClusterIP"} == {"fraud-gateway"}
    policies = of_kind(documents, "NetworkPolicy")
    service, metrics = policies["fraud-decision"]["spec"]["ingress"]
    assert service["from"] == [{"podSelector": policies["fraud-gateway"]["spec"]["podSelector"]}]
    assert service["ports"] == [{"port": "http"}]
    (prometheus,) = metrics["from"]
    assert prometheus["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "monitoring"}
    (out,) = policies["fraud-gateway"]["spec"]["egress"]
    assert out["to"] == [{"podSelector": policies["fraud-decision"]["spec"]["podSelector"]}]


def test_every_way_out_has_a_destination_and_each_part_has_its_own(documents: list[Document]) -> None:
    ways: dict[str, set[str]] = {}
    parts = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for _, pod in pods(documents)} | {"run"}
    shared = {"app.kubernetes.io/name": "fraud-platform", "app.kubernetes.io/instance": "fraud"}
    for name, policy in of_kind(documents, "NetworkPolicy").items():
        for way in policy["spec"].get("egress", []):
            assert way["to"], name
            assert way["ports"], name
            assert all(peer for peer in way["to"]), name
            for part in parts:
                if selects(policy["spec"]["podSelector"], shared | {"app.kubernetes.io/component": part}):
                    ways.setdefault(part, set()).add(name.removeprefix("fraud-"))
    everybody = {"default"}
    working = everybody | {"to-redis", "to-postgres", "to-kafka"}
    assert ways == {
        "gateway": everybody | {"gateway"},
        "decision": working, "consume": working, "measure": working,
        "dagster-code": working | {"to-kubernetes", "to-platform"}, "run": working | {"to-kubernetes", "to-platform"},
        "dagster-webserver": everybody | {"to-postgres", "to-kubernetes", "to-platform"},
        "dagster-daemon": everybody | {"to-postgres", "to-kubernetes", "to-platform"},
        "mlflow": everybody,
    }  # fmt: skip
    policies = of_kind(documents, "NetworkPolicy")
    assert policies["fraud-to-redis"]["spec"]["egress"] == [
        {"to": [{"ipBlock": {"cidr": "10.9.0.1/32"}}], "ports": [{"port": 6379, "protocol": "TCP"}]}
    ]
    (names,) = policies["fraud-default"]["spec"]["egress"]
    assert names["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]


def test_dagster_s_code_and_mlflow_are_reached_by_dagster_alone(documents: list[Document]) -> None:
    policy = of_kind(documents, "NetworkPolicy")["fraud-platform"]["spec"]
    (way,) = policy["ingress"]
    (peer,) = way["from"]
    (expression,) = peer["podSelector"]["matchExpressions"]
    assert expression["operator"] == "In"
    assert set(expression["values"]) == {"dagster-code", "dagster-webserver", "dagster-daemon", "run"}


def test_every_image_is_named_by_its_digest(documents: list[Document]) -> None:
    images = {container["image"] for _, pod in pods(documents) for container in pod["spec"]["containers"]}
    instance = yaml.safe_load(of_kind(documents, "ConfigMap")["fraud-dagster"]["data"]["dagster.yaml"])
    images.add(instance["run_launcher"]["config"]["job_image"])
    assert len(images) == 3
    assert all(re.fullmatch(r"[^@]+@sha256:[0-9a-f]{64}", image) for image in images)


def test_what_the_gateway_mounts_of_the_platform_is_the_policy_to_read(documents: list[Document]) -> None:
    pod = of_kind(documents, "Deployment")["fraud-gateway"]["spec"]["template"]["spec"]
    assert all("persistentVolumeClaim" not in volume for volume in pod["volumes"])
    writable = {mount["name"] for mount in pod["containers"][0]["volumeMounts"] if not mount.get("readOnly")}
    assert all("emptyDir" in volume for volume in pod["volumes"] if volume["name"] in writable)


@pytest.mark.skipif(HELM is None, reason="helm is not on PATH: `make test-chart` fetches it and renders the chart")
@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ("image.service=registry.example/fraud-detector:7-0", "image.service is registry.example/fraud-detector:7-0"),
        ("image.gateway=registry.example/g@sha256:abc", "image.gateway is"),
        ("image.platform=", "image.platform names the image that"),
        ("network.stores.redis.to=null", "network.stores.redis.to names nobody"),
        ("network.stores.kafka.to=null", "network.stores.kafka.to names nobody"),
        ("network.stores.kubernetes.to=null", "network.stores.kubernetes.to names nobody"),
        ("settings.lakeUrl=s3://lake", "network.stores.web.to names nobody"),
        ("network.egressPorts[0]=443", "network.egressPorts let pods connect to anybody"),
    ],
)
def test_what_would_stand_open_is_refused_and_said(changed: str, said: str) -> None:
    assert HELM is not None
    done = subprocess.run(
        [HELM, "template", "fraud", str(CHART), *OPTIONS, *SET, f"--set={changed}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.skipif(HELM is None, reason="helm is not on PATH: `make test-chart` fetches it and renders the chart")
def test_followed_releases_give_the_gateway_the_policy_alone_and_a_tag_is_taken_where_that_is_said() -> None:
    rendered = helm(
        "template", "fraud", str(CHART), *OPTIONS, *SET, "--set=service.followReleases=true",
        "--set=image.requireDigests=false", "--set=image.service=registry.example/fraud-detector:7-0",
        "--set=settings.kafkaBootstrap=", "--set=network.stores.kafka.to=null",
    )  # fmt: skip
    found = [document for document in yaml.safe_load_all(rendered) if document]
    pod = of_kind(found, "Deployment")["fraud-gateway"]["spec"]["template"]["spec"]
    (mounted,) = [mount for mount in pod["containers"][0]["volumeMounts"] if mount["name"] == "platform"]
    assert mounted == {
        "name": "platform", "mountPath": "/var/lib/fraud/policy", "subPath": "policy", "readOnly": True,
    }  # fmt: skip
    assert "fraud-to-kafka" not in of_kind(found, "NetworkPolicy")


def test_prometheus_scrapes_pods_that_there_are_under_the_jobs_that_the_rules_know(documents: list[Document]) -> None:
    scraped = set()
    for monitor in of_kind(documents, "PodMonitor").values():
        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        assert monitor["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        spec = monitor["spec"]
        assert set(spec) == {"selector", "podMetricsEndpoints"}
        selected = [pod["spec"] for _, pod in pods(documents) if selects(spec["selector"], pod["metadata"]["labels"])]
        ports = {port["name"] for pod in selected for each in pod["containers"] for port in each.get("ports", [])}
        assert {endpoint["port"] for endpoint in spec["podMetricsEndpoints"]} <= ports
        for endpoint in spec["podMetricsEndpoints"]:
            assert set(endpoint) == {"port", "path", "relabelings"}
            (relabeling,) = endpoint["relabelings"]
            assert relabeling["targetLabel"] == "job"
            scraped.add(relabeling["replacement"])
    assert scraped == set(re.findall(r'\bjob="([^"]+)"', "".join(file.read_text() for file in RULES.iterdir())))


def selects(selector: Document, labels: dict[str, str]) -> bool:
    assert all(expression["operator"] == "In" for expression in selector.get("matchExpressions", []))
    return selector["matchLabels"].items() <= labels.items() and all(
        labels[expression["key"]] in expression["values"] for expression in selector.get("matchExpressions", [])
    )


def test_the_alerts_are_those_of_one_machine(documents: list[Document]) -> None:
    rules = of_kind(documents, "PrometheusRule")
    assert {name: rule["spec"] for name, rule in rules.items()} == {
        f"fraud-{file.stem}": yaml.safe_load(file.read_text()) for file in RULES.iterdir()
    }
    for rule in rules.values():
        assert rule["apiVersion"] == "monitoring.coreos.com/v1"
        assert rule["metadata"]["labels"]["release"] == "kube-prometheus-stack"
        assert set(rule["spec"]) == {"groups"}
        for group in rule["spec"]["groups"]:
            assert set(group) <= {"name", "interval", "rules"}
            assert all({"record", "expr"} <= set(each) or {"alert", "expr"} <= set(each) for each in group["rules"])


def test_the_dashboards_are_those_of_one_machine_but_for_their_source(documents: list[Document]) -> None:
    shown = {
        name: config
        for name, config in of_kind(documents, "ConfigMap").items()
        if config["metadata"]["labels"].get("grafana_dashboard") == "1"
    }
    assert {name: config["data"] for name, config in shown.items()} == {
        f"fraud-dashboard-{file.stem}": {file.name: file.read_text().strip().replace("fraud-prometheus", "prometheus")}
        for file in DASHBOARDS.iterdir()
    }
    assert all(json.loads(text) for config in shown.values() for text in config["data"].values())


@pytest.mark.skipif(HELM is None, reason="helm is not on PATH: `make test-chart` fetches it and renders the chart")
def test_without_the_operator_there_is_nothing_of_it() -> None:
    rendered = helm("template", "fraud", str(CHART), *OPTIONS, *SET, "--set=monitoring.enabled=false")
    found = [document for document in yaml.safe_load_all(rendered) if document]
    assert not any("monitoring.coreos.com" in document["apiVersion"] for document in found)
    assert set(of_kind(found, "ConfigMap")) == {"fraud-dagster"}
    service = of_kind(found, "StatefulSet")["fraud-decision"]["spec"]["template"]
    assert service["metadata"]["annotations"]["prometheus.io/scrape"] == "true"


def test_nothing_comes_in_or_goes_out_that_no_policy_allows(documents: list[Document]) -> None:
    policies = of_kind(documents, "NetworkPolicy")
    everything = policies["fraud-default"]["spec"]
    assert set(everything["policyTypes"]) == {"Ingress", "Egress"}
    assert "ingress" not in everything
    for name, pod in pods(documents):
        assert everything["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name


def test_secrets_are_references_and_settings_exist(documents: list[Document]) -> None:
    known = {f"FRAUD_{name.upper()}" for name in Settings.model_fields}
    known |= {"DAGSTER_POSTGRES_URL", "DAGSTER_CURRENT_IMAGE"}
    assert of_kind(documents, "Secret") == {}
    for name, pod in pods(documents):
        for container in pod["spec"]["containers"]:
            for variable in container["env"]:
                assert variable["name"] in known, name
                secret = re.search("REDIS_URL|POSTGRES_URL|KAFKA_OPTIONS|PASSWORD|API_KEY$", variable["name"])
                assert not secret or set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]


def test_dagster_launches_runs_in_pods_that_are_as_bound_as_the_others(documents: list[Document]) -> None:
    instance = yaml.safe_load(of_kind(documents, "ConfigMap")["fraud-dagster"]["data"]["dagster.yaml"])
    launcher = instance["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", "K8sRunLauncher")
    config = launcher["config"]
    assert config["job_image"] == f"registry.example/fraud-platform@sha256:{8:064x}"
    assert config["service_account_name"] in of_kind(documents, "ServiceAccount")
    # tags of a run, which whoever launches one may write, change nothing of its pod
    assert (config["only_allow_user_defined_k8s_config_fields"], config["only_allow_user_defined_env_vars"]) == ({}, [])
    run = config["run_k8s_config"]
    assert run["pod_spec_config"]["securityContext"]["runAsNonRoot"]
    assert run["container_config"]["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["name"] for mount in run["container_config"]["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in run["pod_spec_config"]["volumes"]}
    assert instance["concurrency"]["runs"]["max_concurrent_runs"] == 1
    assert instance["retention"] == yaml.safe_load(RETENTION_YAML)["retention"]
    workspace = yaml.safe_load(of_kind(documents, "ConfigMap")["fraud-dagster"]["data"]["workspace.yaml"])
    (location,) = workspace["load_from"]
    assert location["grpc_server"]["host"] in of_kind(documents, "Service")
