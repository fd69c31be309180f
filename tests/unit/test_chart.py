"""The Helm chart: rendered by Helm itself into a golden file, and what the platform asks of every pod in it.

Helm is fetched by `make test-chart`; where it is not on PATH, the golden file is held against the chart by a digest.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "fraud-platform"
GOLDEN = ROOT / "tests" / "golden" / "chart.yaml"
VALUES = ["image.service=registry.example/fraud-detector:7-0", "image.platform=registry.example/fraud-platform:0"]
HELM = shutil.which("helm")
OPTIONS = ["--namespace", "fraud", "--kube-version", "1.30.0"]
SET = [f"--set={value}" for value in VALUES]
WORKLOADS = {"Deployment", "StatefulSet"}

Document = dict[str, Any]


def digest() -> str:
    files = sorted(path for path in CHART.rglob("*") if path.is_file())
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


def test_the_golden_file_is_of_this_chart() -> None:
    assert GOLDEN.read_text().splitlines()[0] == f"# chart {digest()}", "UPDATE_GOLDEN=yes make test-chart"


def test_the_platform_s_parts_are_there(documents: list[Document]) -> None:
    assert {name for name, _ in pods(documents)} == {
        f"fraud-{part}"
        for part in ("decision", "consume", "mlflow", "dagster-code", "dagster-webserver", "dagster-daemon")
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
    (budget,) = of_kind(documents, "PodDisruptionBudget").values()
    assert budget["spec"]["selector"] == decision["spec"]["selector"]
    assert budget["spec"]["maxUnavailable"] == 1


def test_it_grows_by_processor_and_by_latency(documents: list[Document]) -> None:
    (scaler,) = of_kind(documents, "HorizontalPodAutoscaler").values()
    cpu, latency = scaler["spec"]["metrics"]
    assert cpu["containerResource"]["target"]["averageUtilization"] == 70
    assert latency["pods"]["metric"]["name"].startswith("fraud_decision_seconds")
    assert scaler["spec"]["scaleTargetRef"]["name"] in of_kind(documents, "StatefulSet")


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
                secret = re.search("REDIS_URL|POSTGRES_URL|PASSWORD|KEY$", variable["name"])
                assert not secret or set(variable["valueFrom"]) == {"secretKeyRef"}, variable["name"]


def test_dagster_launches_runs_in_pods_that_are_as_bound_as_the_others(documents: list[Document]) -> None:
    instance = yaml.safe_load(of_kind(documents, "ConfigMap")["fraud-dagster"]["data"]["dagster.yaml"])
    launcher = instance["run_launcher"]
    assert (launcher["module"], launcher["class"]) == ("dagster_k8s", "K8sRunLauncher")
    config = launcher["config"]
    assert config["job_image"] == "registry.example/fraud-platform:0"
    assert config["service_account_name"] in of_kind(documents, "ServiceAccount")
    run = config["run_k8s_config"]
    assert run["pod_spec_config"]["securityContext"]["runAsNonRoot"]
    assert run["container_config"]["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["name"] for mount in run["container_config"]["volumeMounts"]}
    assert mounted <= {volume["name"] for volume in run["pod_spec_config"]["volumes"]}
    assert instance["concurrency"]["runs"]["max_concurrent_runs"] == 1
    workspace = yaml.safe_load(of_kind(documents, "ConfigMap")["fraud-dagster"]["data"]["workspace.yaml"])
    (location,) = workspace["load_from"]
    assert location["grpc_server"]["host"] in of_kind(documents, "Service")
