"""The packages of the images, as `make lock` has resolved them: versions and hashes of `requirements.lock`, only fewer.

What belongs here: which file holds what. What does not: resolving, which is uv's; installing (`image`).
"""

from pathlib import Path

SERVING_LOCK = Path("deploy/image/serving.lock")
"""The decision service and the inference log's process: what `deploy/image/serving.in` names and what that needs."""

PLATFORM_LOCK = Path("deploy/image/platform.lock")
"""Everything but development: Dagster, MLflow, training, a lake on S3; and what `deploy/image/platform.in` names."""


def serving_requirements(root: Path) -> str:
    """A requirements file for `pip install --no-deps --require-hashes`. root: the checkout."""
    return (root / SERVING_LOCK).read_text()


def platform_requirements(root: Path) -> str:
    """The same for the platform around the service."""
    return (root / PLATFORM_LOCK).read_text()
