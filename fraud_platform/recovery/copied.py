"""A copy of a home to lose things on.

What belongs here: what is copied, and the settings of the copy. What does not: what is lost (`drill`). The live home is
read and never written: tables are linked, since a partition is replaced and never changed, everything else is copied.
Servers are the copy's own.
"""

import os
import shutil
import socket
from pathlib import Path
from typing import Any

from fraud_platform.lake import Lake
from fraud_platform.settings import Settings

LEFT_BEHIND = ("redis", "postgres", "control", "dagster", "run", "log", "evaluate", "imports")
"""Folders of the home that the copy does without, or makes itself."""
PORTS = ("dagster_port", "service_port", "mlflow_port", "log_port")


class DrillError(RuntimeError):
    """The drill cannot begin; the message says what is missing."""


def copied(settings: Settings, folder: Path) -> Settings:
    """Copy a home; returns the copy's settings: its own folder and ports, every store embedded."""
    home = settings.home.absolute()
    lake = Lake(settings.lake)
    if not lake.is_local:
        raise DrillError("the lake is not a folder on this machine: drill on a copy of it")
    if folder.exists():
        raise DrillError(f"{folder} exists; name a folder that does not")
    source = Path(settings.lake)
    folder.mkdir(parents=True, mode=0o700)
    shutil.copytree(source, folder / "lake", copy_function=_link)
    for path in sorted(home.iterdir()):
        if path.is_dir() and path.name not in LEFT_BEHIND and path != source:
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("*.lock"))
    ports = {name: _free_port() for name in PORTS}
    own: dict[str, Any] = {"home": folder, "lake_url": None, "redis_url": None, "postgres_url": None}
    own |= {"control_url": None, "kafka_bootstrap": None, "api_key": None}
    return settings.model_copy(update=own | ports)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
