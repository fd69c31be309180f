"""Feast's compute engine of this platform: `feast materialize` runs the bulk writer.

What belongs here: the bridge from a materialization task to the bulk writers. What does not: definitions and
configuration (`feature_repo`). Named in feature_store.yaml as `batch_engine.type`; Feast passes that block's keys.
"""

import logging

from feast.feature_view import FeatureView
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.repo_config import FeastConfigBaseModel

from fraud_platform.online.cold_writer import write_cold
from fraud_platform.online.feast_seam import ViewWriter, postgres_connection, redis_client
from fraud_platform.online.packed import VIEWS, PackedView
from fraud_platform.online.shards import RedisClient
from fraud_platform.online.writer import write_packed

_log = logging.getLogger(__name__)


class PackedComputeEngineConfig(FeastConfigBaseModel):
    """Configuration block of the engine; Feast finds it by its name."""

    type: str = "fraud_platform.online.feast_engine.PackedComputeEngine"
    rows_per_second: int | None = None
    """Pace of writing to Redis; None: as fast as it goes."""


class PackedComputeEngine(ViewWriter):
    """Writes the packed views by the bulk writer; refuses views that it does not know.

    The rows come from the offline store, the newest per entity within the task's interval, and go to the Redis of the
    online store's configuration, or to its PostgreSQL. A refused or failed task is the job's error, which Feast raises.
    """

    def write(self, task: MaterializationTask) -> int:
        """Write the newest row of each entity within the task's interval."""
        view = _packed(task.feature_view)
        source = task.feature_view.batch_source
        if source is None:
            raise LookupError(f"{view.name} has no source to materialize from")
        job = self.offline_store.pull_latest_from_table_or_query(
            config=self.repo_config,
            data_source=source,
            join_key_columns=[view.join_key],
            feature_name_columns=[name for name, _ in view.features],
            timestamp_field=source.timestamp_field,
            created_timestamp_column=None,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        # Feast's own way from Spark to Arrow goes by pandas, where a row's array is an object of its own
        rows = job.to_spark_df().toArrow() if hasattr(job, "to_spark_df") else job.to_arrow()
        if not rows.num_rows:
            _log.warning(
                "%s: nothing was written, since its source has no row from %s to %s. Its source holds the snapshot "
                "alone that was loaded last: docs/features.md, The feast command",
                view.name, task.start_time, task.end_time,
            )  # fmt: skip
        bar = task.tqdm_builder(rows.num_rows) if task.tqdm_builder else None

        def advance(written: int) -> None:
            if bar:
                bar.update(written)

        try:
            if isinstance(self.online_store, PostgreSQLOnlineStore):
                with postgres_connection(self.online_store, self.repo_config) as connection:
                    return write_cold(connection, task.project, view, rows, progress=advance)
            client, ttl_seconds = self._redis()
            return write_packed(
                client,
                task.project,
                view,
                rows,
                ttl_seconds=ttl_seconds,
                rows_per_second=self._pace(),
                progress=advance,
            )
        finally:
            if bar:
                bar.close()

    def _pace(self) -> int | None:
        config = self.repo_config.batch_engine
        return config.rows_per_second if isinstance(config, PackedComputeEngineConfig) else None

    def _redis(self) -> tuple[RedisClient, int]:
        """The online store's connection, as Feast itself opens it, and the keys' time to live in seconds."""
        config = self.repo_config.online_store
        if not isinstance(self.online_store, RedisOnlineStore) or not isinstance(config, RedisOnlineStoreConfig):
            raise TypeError(f"the packed views are written to Redis or PostgreSQL, the online store is {config.type}")
        client = redis_client(self.online_store, config)
        if not config.key_ttl_seconds:
            raise ValueError("online_store.key_ttl_seconds must be set: rows of departed entities expire by it")
        return client, config.key_ttl_seconds


def _packed(feature_view: FeatureView) -> PackedView:
    """The packed view behind Feast's view. Raises LookupError, naming what can be materialized."""
    for view in VIEWS:
        if view.name == feature_view.name:
            return view
    known = ", ".join(view.name for view in VIEWS)
    raise LookupError(f"{feature_view.name} has no packed layout: only {known} are materialized online")
