"""When things run: every night the new day, every week a new model.

What belongs here: jobs and their clocks. What does not: what a run does.
"""

from collections.abc import Iterable
from datetime import UTC, timedelta
from typing import Any

import dagster as dg

from assets.partitions import key_range_tags
from assets.resources import Platform
from assets.retention import retention
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.gaps import Unbuilt, daily_tables, unbuilt
from fraud_platform.inference_log import table as inference_log
from fraud_platform.settings import Settings


def assets_of(tables: Iterable[str]) -> tuple[str, ...]:
    """The assets that write some daily tables: of the same name whatever the features are."""
    return tuple(table.split("/")[0] for table in tables)


DAILY_ASSETS = assets_of(daily_tables(CATALOGUE))
LABEL_ASSETS = ("label_tiles", "merchant_features", "feature_medians", "training_set")
"""What other labels change."""
ONLINE_ASSETS = ("online_features", "online_velocity")
MODEL_ASSETS = ("candidate_model", "registered_model", "champion_model", "drift_reference")
WATCHING_ASSETS = ("feature_drift", "score_drift", "drift_report", "skew", "freshness")
MATURED_ASSETS = ("performance",)
COLD_ASSETS = ("cold_features",)
PACKAGING_ASSETS = ("champion_bento", "fraud_image")

NIGHTLY_HOUR = 1
"""UTC; the day is over at 00:00 and late rows belong to the day they arrive, so nothing is waited for."""


def jobs(partitions: dg.PartitionsDefinition, decision_days: dg.PartitionsDefinition) -> dict[str, Any]:
    """All jobs by name; each says what it does."""
    return {
        "history": dg.define_asset_job(
            "history", dg.AssetSelection.assets(*DAILY_ASSETS), partitions_def=partitions,
            description="Raw logs to training set, for a day or a range of days in one run.",
        ),
        "nightly": dg.define_asset_job(
            "nightly", dg.AssetSelection.assets(*DAILY_ASSETS, *ONLINE_ASSETS), partitions_def=partitions,
            description="The new day from raw logs to Redis; a failed blocking check stops it before Redis.",
        ),
        "relabel": dg.define_asset_job(
            "relabel", dg.AssetSelection.assets(*LABEL_ASSETS, "online_features"), partitions_def=partitions,
            description="What depends on labels, rebuilt when other labels count: from label tiles to Redis.",
        ),
        "decisions": dg.define_asset_job(
            "decisions", dg.AssetSelection.assets(inference_log.TABLE), partitions_def=decision_days,
            description="A day's decisions, merged and checked once it is over.",
        ),
        "watching": dg.define_asset_job(
            "watching", dg.AssetSelection.assets(*WATCHING_ASSETS), partitions_def=decision_days,
            description="A day's decisions against the release's reference and against what training would use.",
        ),
        "outcomes": dg.define_asset_job(
            "outcomes", dg.AssetSelection.assets(*MATURED_ASSETS), partitions_def=decision_days,
            description="What the decisions of a day were worth, once its labels have matured.",
        ),
        "online": dg.define_asset_job(
            "online", dg.AssetSelection.assets(*ONLINE_ASSETS), description="The newest snapshot to Redis.",
        ),
        "cold": dg.define_asset_job(
            "cold", dg.AssetSelection.assets(*COLD_ASSETS), description="The newest snapshot to PostgreSQL.",
        ),
        "packaging": dg.define_asset_job(
            "packaging", dg.AssetSelection.assets(*PACKAGING_ASSETS),
            description="The release in force as a Bento and, if one can be built here, as an image.",
        ),
        "training": dg.define_asset_job(
            "training", dg.AssetSelection.assets(*MODEL_ASSETS, *COLD_ASSETS),
            description="Train, register, promote if the rules allow, and load the cold store.",
        ),
    }  # fmt: skip


def missing(platform: Platform) -> list[Unbuilt]:
    """`gaps.unbuilt` of the complete days."""
    return unbuilt(platform.lake, platform.dataset.days(platform.now), platform.catalogue)


def schedules(resolved: dict[str, Any]) -> list[dg.ScheduleDefinition]:
    """Every schedule, all on."""

    @dg.schedule(
        name="nightly_features",
        job=resolved["nightly"],
        cron_schedule=f"0 {NIGHTLY_HOUR} * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Every day that is over and not built yet, in one run, then Redis.",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        platform = Platform(Settings(), context.scheduled_execution_time.astimezone(UTC))
        parts = missing(platform)
        if not parts:
            return dg.SkipReason("every complete day of the history is built")
        # two runs would not wait for each other; what is written again with the same rows stays as it is
        wanted = {asset for part in parts for asset in assets_of(part.tables)}
        return dg.RunRequest(
            run_key=f"nightly-{context.scheduled_execution_time:%Y-%m-%d}",
            tags=key_range_tags(max((part.days for part in parts), key=len)),
            asset_selection=[dg.AssetKey(asset) for asset in (*DAILY_ASSETS, *ONLINE_ASSETS)
                             if asset in wanted or asset in ONLINE_ASSETS],
        )  # fmt: skip

    weekly = dg.ScheduleDefinition(
        name="weekly_training",
        job=resolved["training"],
        cron_schedule="0 3 * * 1",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Mondays: a candidate on all matured labels.",
    )

    cold = dg.ScheduleDefinition(
        name="weekly_cold_store",
        job=resolved["cold"],
        cron_schedule="0 2 * * 4",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Thursdays: halfway between two trainings, each of which loads the cold store as well.",
    )

    @dg.schedule(
        name="daily_decisions",
        job=resolved["decisions"],
        cron_schedule="20 0 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Yesterday's decisions, together with late ones of earlier days.",
    )
    def decisions(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        yesterday = context.scheduled_execution_time.astimezone(UTC).date() - timedelta(days=1)
        return dg.RunRequest(run_key=f"decisions-{yesterday}", tags=key_range_tags([yesterday]))

    @dg.schedule(
        name="daily_watching",
        job=resolved["watching"],
        cron_schedule="30 2 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Yesterday's decisions, after the nightly run has built the training rows to compare with.",
    )
    def watching(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        yesterday = context.scheduled_execution_time.astimezone(UTC).date() - timedelta(days=1)
        return dg.RunRequest(run_key=f"watching-{yesterday}", tags=key_range_tags([yesterday]))

    @dg.schedule(
        name="daily_outcomes",
        job=resolved["outcomes"],
        cron_schedule="40 2 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="The decisions whose labels matured yesterday.",
    )
    def outcomes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        settings = Settings()
        today = context.scheduled_execution_time.astimezone(UTC)
        day = today.date() - timedelta(days=settings.label_maturity_days + 1)
        if day < Platform(settings, today).dataset.first_day:
            return dg.SkipReason("no day of the history has matured yet")
        return dg.RunRequest(run_key=f"outcomes-{day}", tags=key_range_tags([day]))

    nightly_retention = dg.ScheduleDefinition(
        name="daily_retention",
        job=retention,
        cron_schedule="0 4 * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="Old decisions and runs are deleted, old snapshots pruned.",
    )
    return [nightly, weekly, cold, decisions, watching, outcomes, nightly_retention]
