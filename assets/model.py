"""The model stage: a candidate is trained and measured, registered in MLflow, and promoted if the rule allows.

What belongs here: names, order and what Dagster shows. What does not: training, measuring, judging
(`fraud_platform.model`).
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from assets.daily_table import OWNERS
from assets.resources import Platform

GROUP = "model"
VERSION_TAG = "fraud/model_version"
"""On a training's run: the version that it registered."""


def _candidate(platform: Platform) -> Any:
    """The candidate of the data as it is now; trained once, read again by every step."""
    from fraud_platform.model.steps import train_candidate

    return train_candidate(platform.lake, platform.settings, platform.dataset.now(platform.now), platform.catalogue)


@dg.asset(
    group_name=GROUP,
    kinds={"xgboost"},
    owners=OWNERS,
    deps=["training_set", "fraud_labels", "feature_medians"],
    description="The better of XGBoost and logistic regression, fitted on all matured labels and measured on the last "
    "matured days, which no training saw.",
)
def candidate_model(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult[None]:
    """Train, or find that the same was trained before."""
    from fraud_platform.model.report import report_markdown

    candidate = _candidate(platform)
    comparison = candidate.record.evaluation.comparison.candidate
    context.log.info(
        f"candidate {candidate.fingerprint}: AUC {comparison.auc.value:.4f}, "
        f"average precision {comparison.average_precision.value:.4f}"
    )
    return dg.MaterializeResult(
        metadata={
            **candidate.metrics,
            "report": dg.MetadataValue.md(report_markdown(candidate)),
            "fingerprint": candidate.fingerprint,
            "folder": dg.MetadataValue.path(str(candidate.folder)),
        },
        data_version=dg.DataVersion(candidate.fingerprint),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"mlflow"},
    owners=OWNERS,
    deps=[candidate_model],
    description="The candidate in MLflow's registry, once per fingerprint, and the gate's verdict on it.",
    check_specs=[
        dg.AssetCheckSpec(
            "gate",
            asset="registered_model",
            blocking=True,
            description="Better than chance and, on the same holdout, than the champion, beyond the interval.",
        )
    ],
)
def registered_model(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], mlflow: dg.ResourceParam[Any]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Log into the MLflow run that the resource opened; the run ends here, whatever happens."""
    from fraud_platform.model.registry import note_verdict
    from fraud_platform.model.steps import judge_candidate, register_candidate

    candidate = _candidate(platform)
    try:
        registered = register_candidate(platform.settings, candidate, context.run.run_id)
        verdict = judge_candidate(platform.lake, platform.settings, candidate)
        card = note_verdict(platform.settings, candidate, registered, verdict)
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run()
    context.instance.add_run_tags(
        context.run.run_id,
        {"mlflow/run_id": registered.mlflow_run_id, VERSION_TAG: str(registered.version)},
    )
    versions = {
        f"data/{table}": f"{version['first_day']} to {version['last_day']}, SHA-256 {version['sha256']}"
        for table, version in candidate.record.data.items()
    }
    yield dg.MaterializeResult(
        metadata={
            "version": registered.version,
            "mlflow_run_id": registered.mlflow_run_id,
            "mlflow_run": dg.MetadataValue.url(_mlflow_page(platform, registered.mlflow_run_id)),
            "registered_before": registered.reused,
            "card": dg.MetadataValue.md(card),
            "fingerprint": candidate.fingerprint,
            **versions,
        },
        data_version=dg.DataVersion(str(registered.version)),
    )
    yield dg.AssetCheckResult(
        check_name="gate",
        passed=verdict.promote,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={
            "version": registered.version,
            "rival": verdict.rival,
            "frauds": verdict.frauds,
            "reasons": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in verdict.reasons)),
        },
    )


def _mlflow_page(platform: Platform, run_id: str) -> str:
    from fraud_platform.model.registry import ensure_experiment

    experiment = ensure_experiment(platform.settings)
    return f"http://127.0.0.1:{platform.settings.mlflow_port}/#/experiments/{experiment}/runs/{run_id}"


@dg.asset(
    group_name=GROUP,
    kinds={"mlflow", "bentoml"},
    owners=OWNERS,
    deps=[registered_model],
    description="Who decides: the champion, and beside it a challenger that has passed the gate. The ledger keeps why.",
)
def champion_model(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult[None]:
    """Release by the verdict, read again here, since a check of another run would not hold anyone back."""
    from fraud_platform.model.bundle import NoReleaseError, current_release
    from fraud_platform.model.steps import register_candidate, release_if_better

    candidate = _candidate(platform)
    registered = register_candidate(platform.settings, candidate, context.run.run_id)
    who = f"dagster run {context.run.run_id}"
    promotion = release_if_better(platform.lake, platform.settings, candidate, registered, who=who, now=platform.now)
    reasons = "; ".join(promotion.verdict.reasons)
    outcome = "stays a candidate"
    if promotion.verdict.promote:
        outcome = "is in force" if promotion.challenger is None else "is the challenger, in shadow"
    context.log.info(f"version {registered.version} {outcome}: {reasons}")
    try:
        in_force = current_release(platform.settings.home).name
    except NoReleaseError:
        in_force = "none"
    return dg.MaterializeResult(
        metadata={
            "release": in_force,
            "passed": promotion.verdict.promote,
            "challenger": promotion.challenger or "none",
            "version": registered.version,
            "mlflow_run_id": registered.mlflow_run_id,
            "reasons": reasons,
        },
        data_version=dg.DataVersion(in_force),
    )
