"""The composition root: every asset, job, schedule and resource of the code location, and nothing else."""

from datetime import UTC, datetime

import dagster as dg

from assets.features import feature_assets
from assets.model import candidate_model, champion_model, registered_model
from assets.online import online_features, online_velocity
from assets.partitions import daily_partitions
from assets.raw import raw_assets
from assets.resources import mlflow_resource, platform_resource
from assets.schedules import jobs, schedules
from fraud_platform.dataset import find_dataset
from fraud_platform.lake import open_lake
from fraud_platform.settings import Settings


def build_definitions(settings: Settings, now: datetime) -> dg.Definitions:
    """The definitions for the history that these settings name."""
    partitions = daily_partitions(find_dataset(settings, open_lake(settings), now))
    all_jobs = jobs(partitions)
    return dg.Definitions(
        assets=[
            *raw_assets(partitions),
            *feature_assets(partitions),
            online_features,
            online_velocity,
            candidate_model,
            registered_model,
            champion_model,
        ],
        jobs=list(all_jobs.values()),
        schedules=schedules(all_jobs),
        resources={"platform": platform_resource, "mlflow": mlflow_resource},
        # one process per run: a step in a process of its own pays every heavy import again
        executor=dg.in_process_executor,
    )


defs = build_definitions(Settings(), datetime.now(UTC))
