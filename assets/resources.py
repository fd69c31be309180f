"""What assets are handed: the settings, the lake and the clock of this platform, and MLflow.

What belongs here: Dagster resources. What does not: anything with an effect when the code location is loaded.
"""

from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from typing import Any

import dagster as dg

from fraud_platform.clock import present
from fraud_platform.dataset import Dataset, find_dataset, fix_dataset
from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.features.tables import SetTables, tables_of
from fraud_platform.ingest.source import Source
from fraud_platform.lake import Lake, open_lake
from fraud_platform.settings import Settings


class Platform:
    """One run's settings, features, lake, clock and history."""

    def __init__(self, settings: Settings, now: datetime, catalogue: Catalogue = CATALOGUE) -> None:
        self.settings = settings
        self.now = now
        self.catalogue = catalogue

    @property
    def tables(self) -> SetTables:
        """The tables that stand on the features."""
        return tables_of(self.catalogue)

    @cached_property
    def lake(self) -> Lake:
        """The lake that the settings name."""
        return open_lake(self.settings)

    @cached_property
    def opened(self) -> tuple[Dataset, Source]:
        """The dataset, recorded if this is the first run, and its open source."""
        return fix_dataset(self.settings, self.lake, self.now)

    @cached_property
    def dataset(self) -> Dataset:
        """The dataset, without opening its source."""
        return find_dataset(self.settings, self.lake, self.now)


def platform_resource(catalogue: Catalogue) -> dg.ResourceDefinition:
    """The platform as the run's environment describes it, over a set of features."""

    @dg.resource(description="Settings, features, lake and clock, read from FRAUD_* when the run starts.")
    def platform(context: dg.InitResourceContext) -> Platform:
        settings = Settings()
        return Platform(settings, present(settings), catalogue)

    return platform


@dg.resource(
    required_resource_keys={"platform"},
    description="dagster-mlflow's tracking resource on the platform's own MLflow.",
)
def mlflow_resource(context: dg.InitResourceContext) -> Iterator[Any]:
    """dagster-mlflow's resource; it is imported here because MLflow takes five seconds to import."""
    from dagster_mlflow import mlflow_tracking

    from fraud_platform.model.registry import EXPERIMENT, ensure_experiment, tracking_uri

    settings = context.resources.platform.settings
    ensure_experiment(settings)
    configured = mlflow_tracking.configured(
        {"experiment_name": EXPERIMENT, "mlflow_tracking_uri": tracking_uri(settings)}
    )
    with dg.build_resources(
        {"mlflow": configured}, instance=context.instance, dagster_run=context.dagster_run, log_manager=context.log
    ) as resources:
        try:
            yield resources.mlflow
        finally:
            # a step that never ran must not leave the run that this resource opened
            resources.mlflow.end_run()
