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


def _candidate(platform: Platform) -> Any:
    """The candidate of the data as it is now; trained once, read again by every step."""
    from fraud_platform.model.steps import train_candidate

    return train_candidate(platform.lake, platform.settings, platform.dataset.now(platform.now))


@dg.asset(
    group_name=GROUP,
    kinds={"xgboost"},
    owners=OWNERS,
    deps=["training_set", "fraud_labels", "feature_medians"],
    description="XGBoost on all matured labels, measured on the last matured days, which no training saw.",
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
    description="The candidate in MLflow's registry, once per fingerprint, with everything that has to travel with it.",
)
def registered_model(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform], mlflow: dg.ResourceParam[Any]
) -> dg.MaterializeResult[None]:
    """Log into the MLflow run that the resource opened; the run ends here, whatever happens."""
    from fraud_platform.model.steps import register_candidate

    try:
        registered = register_candidate(platform.settings, _candidate(platform), context.run.run_id)
    except BaseException:
        mlflow.end_run("FAILED")
        raise
    mlflow.end_run()
    return dg.MaterializeResult(
        metadata={
            "version": registered.version,
            "mlflow_run_id": registered.mlflow_run_id,
            "registered_before": registered.reused,
        },
        data_version=dg.DataVersion(str(registered.version)),
    )


@dg.asset(
    group_name=GROUP,
    kinds={"mlflow", "bentoml"},
    owners=OWNERS,
    deps=[registered_model],
    description="The release that decides. A candidate replaces it only by the promotion rule; the ledger keeps why.",
    check_specs=[dg.AssetCheckSpec("promoted", asset="champion_model")],
)
def champion_model(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]:
    """Judge the candidate again, here, since a check of another run would not hold anyone back."""
    from fraud_platform.model.bundle import NoReleaseError, current_release
    from fraud_platform.model.steps import promote_if_better, register_candidate

    candidate = _candidate(platform)
    registered = register_candidate(platform.settings, candidate, context.run.run_id)
    who = f"dagster run {context.run.run_id}"
    promotion = promote_if_better(platform.lake, platform.settings, candidate, registered, who=who, now=platform.now)
    reasons = "; ".join(promotion.verdict.reasons)
    context.log.info(
        f"version {registered.version} {'is' if promotion.verdict.promote else 'is not'} promoted: {reasons}"
    )
    try:
        in_force = current_release(platform.settings.home).name
    except NoReleaseError:
        in_force = "none"
    yield dg.MaterializeResult(
        metadata={"release": in_force, "reasons": reasons}, data_version=dg.DataVersion(in_force)
    )
    yield dg.AssetCheckResult(
        check_name="promoted",
        passed=promotion.verdict.promote,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"version": registered.version, "reasons": reasons},
    )
