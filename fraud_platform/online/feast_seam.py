"""Feast's inside: the methods of its classes that this project overrides or calls and that Feast keeps to itself.

What belongs here: every private name of Feast. What does not: what is written (`feast_engine`), the bytes in Redis
(`layout`, which mirrors Feast's and imports none of it). Feast is pinned: `tests/unit/test_seams.py` notices another
version, `tests/integration/test_feast_store.py` other signatures, other behaviour and other bytes.
"""

import os
import uuid
from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.postgres_online_store.postgres import PostgreSQLOnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.infra.registry.base_registry import BaseRegistry
from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig, RepoConfig


class AtomicFileRegistryStore(FileRegistryStore):
    """Feast's registry file, replaced whole: a killed `apply` or `materialize` leaves the old registry, never a half.

    Raises ValueError where the environment was not set.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path) -> None:
        if "$" in registry_config.path:
            raise ValueError(
                f"the registry's path is {registry_config.path}: set the variables of feature_store.yaml first, "
                'eval "$(python -m feature_repo.store)"'
            )
        super().__init__(registry_config, repo_path)

    def _write_registry(self, registry_proto: Registry) -> None:
        target = Path(self._filepath)
        registry_proto.version_id = str(uuid.uuid4())
        registry_proto.last_updated.GetCurrentTime()
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(registry_proto.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


class ViewWriter(LocalComputeEngine):
    """A compute engine that materializes a view by one method of ours, in the place of Feast's plan of steps."""

    @abstractmethod
    def write(self, task: MaterializationTask) -> int:
        """Write a view's rows; returns how many. Whatever it raises is the job's error, which Feast raises."""

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: object
    ) -> LocalMaterializationJob:
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self.write(task)
        except Exception as error:  # noqa: BLE001 - Feast's contract: the job carries the error, the provider raises it
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)


def redis_client(store: RedisOnlineStore, config: RedisOnlineStoreConfig) -> Any:
    """Feast's own connection to its Redis: redis-py's client, of one server or of a Cluster."""
    return store._get_client(config)


def postgres_connection(store: PostgreSQLOnlineStore, config: RepoConfig) -> AbstractContextManager[Any]:
    """Feast's own connection to its PostgreSQL, of psycopg, which goes back with the block."""
    return store._get_conn(config)
