"""The watching stage: each day's decisions held against the release that made them, and against what came out later.

What belongs here: names, order, checks and what Dagster shows. What does not: any figure or limit
(`fraud_platform.monitoring`).
"""

from collections.abc import Sequence
from datetime import date

import dagster as dg

from assets.daily_table import OWNERS, ExtraCheck, daily_table
from assets.partitions import looking_ahead, partition_days
from assets.resources import Platform
from fraud_platform.model.bundle import current_release, release_folder
from fraud_platform.monitoring.drift import FEATURE_DRIFT, SCORE_DRIFT, write_feature_drift, write_score_drift
from fraud_platform.monitoring.freshness import FRESHNESS, write_freshness
from fraud_platform.monitoring.performance import PERFORMANCE, write_performance
from fraud_platform.monitoring.reference import ensure_reference
from fraud_platform.monitoring.signals import Signal, drift_signals, performance_signals
from fraud_platform.monitoring.skew import SKEW, write_skew
from fraud_platform.quality import Finding

GROUP = "monitoring"
KINDS = {"parquet"}


@dg.asset(
    group_name=GROUP,
    kinds=KINDS,
    owners=OWNERS,
    deps=["champion_model"],
    description="Distributions of the release's holdout, feature by feature, drawn once and kept as they are.",
)
def drift_reference(
    context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
) -> dg.MaterializeResult[None]:
    """Draw the reference of the release in force, or find that it was drawn."""
    release = current_release(platform.settings.home)
    reference = ensure_reference(platform.lake, release, platform.settings.seed, platform.catalogue)
    context.log.info(f"{reference.release}: {reference.rows:,} rows of {reference.first_day} to {reference.last_day}")
    return dg.MaterializeResult(
        metadata={
            "release": reference.release,
            "dagster/row_count": reference.rows,
            "first_day": reference.first_day.isoformat(),
            "last_day": reference.last_day.isoformat(),
        },
        data_version=dg.DataVersion(reference.release),
    )


def _finding(rule: str, signals: Sequence[Signal]) -> Finding:
    """Signals as a check: what calls for somebody fails it, what says that nothing can be said does not."""
    failed = [signal for signal in signals if signal.action != "none"]
    said = {f"{signal.day} {signal.cause} {signal.subject}": signal.sentence for signal in signals[:20]}
    return Finding(rule, not failed, "warn", {"signals": len(failed), "sentences": said})


def _drift(cause: str) -> ExtraCheck:
    def check(platform: Platform, days: list[date]) -> Finding:
        found = [each for day in days for each in drift_signals(platform.lake, platform.settings, day)]
        return _finding(cause, [each for each in found if each.cause in (cause, "too_few_rows")])

    return check


def _bands(platform: Platform, days: list[date]) -> Finding:
    found = [each for day in days for each in performance_signals(platform.lake, platform.settings, day)]
    return _finding("bands", found)


def _no_skew(platform: Platform, days: list[date]) -> Finding:
    """Not one value was served that training would not use."""
    wrong: dict[str, str] = {}
    compared = 0
    for day in days:
        rows = platform.lake.read(SKEW, day).to_pylist()
        compared += rows[0]["compared"] if rows else 0
        wrong |= {f"{day} {row['feature']}": row["example"] for row in rows if row["differences"]}
    return Finding("no_skew", not wrong, "error", {"decisions_compared": compared, "features": wrong})


def _age(platform: Platform, days: list[date]) -> Finding:
    """No decision was made without a snapshot, or on one that counts as missing by its age."""
    limit = platform.settings.online_ttl_days * 24
    old: dict[str, str] = {}
    for day in days:
        for row in platform.lake.read(FRESHNESS, day).to_pylist():
            oldest = row["age_hours_p100"] or 0.0
            if row["without"] or oldest > limit:
                old[f"{day} {row['entity']}"] = f"{row['without']} without a snapshot, the oldest {oldest:.1f} h"
    return Finding("age", not old, "warn", {"limit_hours": limit, "features": old})


def monitoring_assets(decision_days: dg.PartitionsDefinition, maturity_days: int) -> list[dg.AssetsDefinition]:
    """drift_reference, feature_drift, score_drift, drift_report, performance, skew and freshness."""

    @dg.asset(
        group_name=GROUP,
        kinds={"evidently"},
        owners=OWNERS,
        partitions_def=decision_days,
        backfill_policy=dg.BackfillPolicy.single_run(),
        deps=[FEATURE_DRIFT],
        description="The page that people read: Evidently on a sample of the day, with the platform's own PSI in it.",
    )
    def drift_report(
        context: dg.AssetExecutionContext, platform: dg.ResourceParam[Platform]
    ) -> dg.MaterializeResult[None]:
        from fraud_platform.monitoring.report import write_drift_report

        settings, drawn = platform.settings, {}
        for day in partition_days(context, platform.now):
            rows = platform.lake.read(FEATURE_DRIFT, day, ["release"]).to_pylist()
            if not rows:
                context.log.info(f"{day}: nothing was compared, so there is nothing to draw")
                continue
            release = release_folder(settings.home, rows[0]["release"])
            address = write_drift_report(
                platform.lake, release, day, settings.feature_psi_limit, settings.seed, platform.catalogue
            )
            if address:
                drawn[f"report {day}"] = dg.MetadataValue.path(address)
        return dg.MaterializeResult(metadata={**drawn, "pages": len(drawn)})

    return [
        drift_reference,
        drift_report,
        daily_table(
            name=FEATURE_DRIFT,
            table=FEATURE_DRIFT,
            group=GROUP,
            kinds=KINDS,
            description="PSI of each feature and of the score against the reference of the release that decided.",
            partitions=decision_days,
            deps=["inference_log", "drift_reference"],
            write=lambda platform, days: write_feature_drift(platform.lake, days, platform.catalogue),
            extra_warnings={"feature_psi": _drift("feature_psi"), "score_psi": _drift("score_psi")},
        ),
        daily_table(
            name=SCORE_DRIFT,
            table=SCORE_DRIFT,
            group=GROUP,
            kinds=KINDS,
            description="The score hour by hour: histogram, mean, variance, PSI, and what was decided on it.",
            partitions=decision_days,
            deps=["inference_log", "drift_reference"],
            write=lambda platform, days: write_score_drift(platform.lake, days, platform.catalogue),
        ),
        daily_table(
            name=PERFORMANCE,
            table=PERFORMANCE,
            group=GROUP,
            kinds=KINDS,
            description="What a day's decisions were worth, by the labels known when all of them had matured.",
            partitions=decision_days,
            deps=["inference_log", dg.AssetDep("fraud_labels", partition_mapping=looking_ahead(maturity_days))],
            write=lambda platform, days: write_performance(platform.lake, platform.settings, days),
            extra_warnings={"bands": _bands},
        ),
        daily_table(
            name=SKEW,
            table=SKEW,
            group=GROUP,
            kinds=KINDS,
            description="Scored values against those that training uses for the same payments, bit for bit.",
            partitions=decision_days,
            deps=["inference_log", dg.AssetDep("training_set", partition_mapping=looking_ahead(0))],
            write=lambda platform, days: write_skew(platform.lake, days, platform.catalogue),
            facts=lambda left_out: {
                day: {f"left_out/{cause}": count for cause, count in causes.items()} for day, causes in left_out.items()
            },
            extra_checks={"no_skew": _no_skew},
        ),
        daily_table(
            name=FRESHNESS,
            table=FRESHNESS,
            group=GROUP,
            kinds=KINDS,
            description="Age of the batch features that decisions were made on, by quantile.",
            partitions=decision_days,
            deps=["inference_log"],
            write=lambda platform, days: write_freshness(platform.lake, days),
            extra_warnings={"age": _age},
        ),
    ]
