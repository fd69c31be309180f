"""The packages of an image, taken out of the project's own lock: same versions, same hashes, only fewer.

What belongs here: which packages serving and the platform need, and cutting them out of `requirements.lock`. What does
not: installing them (`image`). The lock names the dependents of each package (`# via …`), so nothing is resolved again.
"""

import re
from dataclasses import dataclass
from pathlib import Path

LOCK = Path("requirements.lock")
CPU_LOCK = Path("deploy/image/xgboost-cpu.lock")
"""The same XGBoost without CUDA: 18 MB instead of 700. Serving needs no GPU, training here neither."""

KUBERNETES_LOCK = Path("deploy/image/kubernetes.lock")
"""Dagster's launcher of runs in pods, and its storage in PostgreSQL; for the platform's image alone."""

SERVING = (
    "bentoml",
    "confluent-kafka",
    "cryptography",
    "duckdb",
    "fsspec",
    "hiredis",
    "httpx",
    "mmh3",
    "msgspec",
    "numba",
    "numpy",
    "psutil",
    "psycopg",
    "pyarrow",
    "pycountry",
    "pydantic",
    "pydantic-settings",
    "pyjwt",
    "pyyaml",
    "redis",
    "rich",
    "s3fs",
    "scipy",
    "typer",
    "uvicorn",
    "uvloop",
)
"""What the service, the inference log's process and the command `fraud-platform` import;
XGBoost, which asks for SciPy, comes beside them."""

CUDA = frozenset(("xgboost", "nvidia-nccl-cu12"))
"""Replaced by the content of CPU_LOCK."""

_BLOCK = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)(?:\[[^]]*\])?==(?P<version>\S+)", re.MULTILINE)
_PROJECT = "fraud-platform (pyproject.toml)"


class LockError(RuntimeError):
    """The lock does not hold what an image needs; the message says what."""


@dataclass(frozen=True)
class Pin:
    """One package of the lock."""

    name: str
    version: str
    text: str
    """Its lines: version and hashes, without the comments."""
    via: frozenset[str]
    """Who needs it, as the lock says."""


def read_lock(path: Path) -> dict[str, Pin]:
    """The pins of a lock that uv wrote with hashes and annotations, by name. Raises LockError."""
    text = path.read_text()
    starts = [*_BLOCK.finditer(text)]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    pins = {}
    for match, end in zip(starts, ends, strict=True):
        lines = text[match.start() : end].splitlines()
        kept = [line for line in lines if line and not line.lstrip().startswith("#")]
        comments = [line.strip().removeprefix("#").strip() for line in lines if line.lstrip().startswith("#")]
        via = frozenset(name for name in (line.removeprefix("via").strip() for line in comments) if name)
        pins[match["name"]] = Pin(match["name"], match["version"], "\n".join(kept), via)
    unhashed = [name for name, pin in pins.items() if "--hash=sha256:" not in pin.text]
    if unhashed or not pins:
        raise LockError(f"{path} has no hashes of {unhashed or 'anything'}: write it with `make lock`")
    return pins


def serving_pins(root: Path) -> list[Pin]:
    """What the decision service and the inference log's process need, sorted. Raises LockError.

    root: the checkout.
    """
    return _with_cpu_xgboost(root, SERVING)


def platform_pins(root: Path) -> list[Pin]:
    """What everything but development needs: Dagster, MLflow, training, a lake on S3; sorted. Raises LockError."""
    pins = read_lock(root / LOCK)
    wanted = (*(name for name, pin in pins.items() if _PROJECT in pin.via), "s3fs")
    both = {pin.name: pin for pin in (*read_lock(root / KUBERNETES_LOCK).values(), *_with_cpu_xgboost(root, wanted))}
    return sorted(both.values(), key=lambda pin: pin.name)


def requirements_text(pins: list[Pin]) -> str:
    """A requirements file for `pip install --no-deps --require-hashes`."""
    return "".join(f"{pin.text}\n" for pin in pins)


def _with_cpu_xgboost(root: Path, wanted: tuple[str, ...]) -> list[Pin]:
    pins, cpu = read_lock(root / LOCK), read_lock(root / CPU_LOCK)["xgboost-cpu"]
    missing = sorted(set(wanted) - pins.keys())
    if missing:
        raise LockError(f"{LOCK} does not hold {', '.join(missing)}, which an image needs")
    if pins["xgboost"].version != cpu.version:
        raise LockError(
            f"{CPU_LOCK} has XGBoost {cpu.version}, {LOCK} has {pins['xgboost'].version}: write both with `make lock`"
        )
    needed, todo = set[str](), set(wanted) - CUDA
    while todo:
        needed |= todo
        todo = {name for name, pin in pins.items() if pin.via & needed} - needed - CUDA
    return sorted([*(pins[name] for name in needed), cpu], key=lambda pin: pin.name)
