"""Where the registry shows a version's card: an artifact of its run, beside the bundle, and a link on the version.

What belongs here: that one place. What does not: what a card says (`card`), everything else of MLflow (`registry`).
"""

from dataclasses import replace
from typing import Any

from fraud_platform.model.bundle import CARD_FILE, MODEL_NAME
from fraud_platform.model.candidate import Candidate
from fraud_platform.model.card import card_markdown
from fraud_platform.model.gate import Verdict

CARD_TAG = "card"
"""Of a version: where its card lies among the artifacts of its run."""


def show_card(
    client: Any, candidate: Candidate, version: int, run_id: str, dagster_run_id: str | None, verdict: Verdict
) -> str:
    """Put the card of a judged version in the place of an earlier one, link it, and return it.

    client: mlflow.MlflowClient.
    """
    bundle = replace(candidate.bundle, version=version, mlflow_run_id=run_id, dagster_run_id=dagster_run_id)
    card, path = card_markdown(candidate.record, bundle, verdict), f"{bundle.name}/{CARD_FILE}"
    client.log_text(run_id, card, path)
    client.set_model_version_tag(MODEL_NAME, str(version), CARD_TAG, path)
    page = f"#/experiments/{client.get_run(run_id).info.experiment_id}/runs/{run_id}/artifacts/{path}"
    client.update_model_version(MODEL_NAME, str(version), description=f"[Model card]({page}), `{path}` of the run")
    return card
