"""Feast's registry file, replaced whole: a killed `apply` or `materialize` leaves the old registry, never a half.

What belongs here: writing the file. What does not: what the registry holds (`views`).
"""

import os
import uuid
from pathlib import Path

from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig


class AtomicFileRegistryStore(FileRegistryStore):
    """Feast's file registry with an atomic write. Raises ValueError where the environment was not set."""

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
