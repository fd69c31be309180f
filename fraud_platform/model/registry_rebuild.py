"""The registry anew from the releases: versions under their old numbers, where MLflow was lost and no backup is there.

What belongs here: putting releases back as versions. What does not: registering a candidate (`registry`). Runs, metrics
and plots of old trainings are lost; what decides, and what may be returned to, is not. Without it the next training
would be numbered from 1 again, under the name of a release that another model has.
"""

import tempfile
from pathlib import Path
from typing import Any

from fraud_platform.model.bundle import MODEL_NAME, Bundle, exclusive, releases
from fraud_platform.model.registry import (
    CHALLENGER,
    CHAMPION,
    FINGERPRINT_TAG,
    champion_version,
    ensure_experiment,
    open_client,
)
from fraud_platform.model.routing import read_routing
from fraud_platform.settings import Settings


def rebuild_registry(settings: Settings) -> list[int]:
    """Register every release under its own number in an empty registry, and set the aliases; returns the numbers.

    A registry that has a champion is left alone. Raises BundleError for a release that this code cannot load.
    """
    if champion_version(settings) is not None:
        return []
    client = open_client(settings)
    experiment = ensure_experiment(settings)
    with exclusive(releases(settings.home) / ".promotion.lock"):
        routing = read_routing(settings.home)
        known = {Bundle.load(path).version: path for path in releases(settings.home).glob(f"{MODEL_NAME}-*")}
        _ensure_model(client)
        fillers = []
        for number in range(1, max(known) + 1):
            if number in known:
                _put_version(client, experiment, number, known[number])
            else:
                # numbers are given in order: one without a release is taken, and given back at the end
                client.create_model_version(MODEL_NAME, source=releases(settings.home).absolute().as_uri())
                fillers.append(number)
        for number in fillers:
            client.delete_model_version(MODEL_NAME, str(number))
        for alias, release in ((CHAMPION, routing.release), (CHALLENGER, routing.challenger)):
            if release is not None:
                client.set_registered_model_alias(MODEL_NAME, alias, release.rpartition("-")[2])
    return sorted(known)


def _ensure_model(client: Any) -> None:
    if not client.search_registered_models(f"name = '{MODEL_NAME}'"):
        client.create_registered_model(MODEL_NAME)


def _put_version(client: Any, experiment: str, number: int, release: Path) -> None:
    bundle = Bundle.load(release)
    run = client.create_run(experiment, run_name=f"rebuilt {release.name}")
    with tempfile.TemporaryDirectory() as temporary:
        bundle.write(Path(temporary))
        client.log_artifacts(run.info.run_id, temporary, release.name)
    source = f"{run.info.artifact_uri}/{release.name}"
    version = client.create_model_version(MODEL_NAME, source=source, run_id=run.info.run_id)
    client.set_model_version_tag(MODEL_NAME, version.version, FINGERPRINT_TAG, str(bundle.data.get("fingerprint", "")))
    client.set_terminated(run.info.run_id)
    if int(version.version) != number:
        raise RuntimeError(f"MLflow numbered {release.name} as {version.version}; its registry was not empty")
