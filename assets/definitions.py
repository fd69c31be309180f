"""The composition root: every asset, job, schedule, sensor and resource of the code location, and nothing else."""

from datetime import datetime

import dagster as dg

from assets.cold import cold_features
from assets.features import feature_assets
from assets.inference_log import inference_log
from assets.job_runs import job_runs_sensor
from assets.model import candidate_model, champion_model, registered_model
from assets.monitoring import monitoring_assets
from assets.online import online_features, online_velocity
from assets.packaging import champion_bento, fraud_image
from assets.partitions import daily_partitions, decision_partitions
from assets.raw import raw_assets
from assets.release_jobs import RELEASE_JOBS
from assets.resources import mlflow_resource, platform_resource
from assets.retention import retention
from assets.schedules import jobs, schedules
from assets.sensors import sensors
from fraud_platform.clock import present
from fraud_platform.dataset import find_dataset
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.lake import open_lake
from fraud_platform.settings import Settings


def build_definitions(settings: Settings, now: datetime, catalogue: Catalogue = CATALOGUE) -> dg.Definitions:
    """The definitions for the history that these settings name, over a set of features."""
    dataset = find_dataset(settings, open_lake(settings), now)
    partitions, decision_days = daily_partitions(dataset), decision_partitions(dataset)
    all_jobs = jobs(partitions, decision_days)
    return dg.Definitions(
        assets=[
            *raw_assets(partitions),
            *feature_assets(partitions, catalogue),
            online_features,
            online_velocity,
            cold_features,
            candidate_model,
            registered_model,
            champion_model,
            champion_bento,
            fraud_image,
            inference_log(decision_days),
            *monitoring_assets(decision_days, settings.label_maturity_days),
        ],
        jobs=[*all_jobs.values(), retention, *RELEASE_JOBS],
        schedules=schedules(all_jobs),
        sensors=[*sensors(all_jobs), job_runs_sensor([*all_jobs, retention.name])],
        resources={"platform": platform_resource(catalogue), "mlflow": mlflow_resource},
        # one process per run: a step in a process of its own pays every heavy import again
        executor=dg.in_process_executor,
    )


_settings = Settings()
defs = build_definitions(_settings, present(_settings))
