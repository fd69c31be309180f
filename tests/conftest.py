"""Fixtures that every test may use: a clean environment, settings with a home of their own, a real Redis.

What belongs here: what several folders of tests share. What does not: data of one test.
"""

import fcntl
import gc
import os
import socket
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import redis

from fraud_platform.settings import Settings
from tests.redis_kit import begin_redis

TESTS = Path(__file__).parent
KINDS = {
    "unit": "no server, no process: the code alone",
    "integration": "with real servers and processes",
    "e2e": "the path of `make run`, headless",
}
ALONE = "alone: measures time, so that no other test runs meanwhile"
KEPT = ("FRAUD_SPARKOV_FILE", "FRAUD_TEST_")
"""How names for tests alone begin: where the Sparkov export lies, which Kafka is used, what is tested at length."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and keep the developer's own environment out of the suite."""
    for kind, meaning in KINDS.items():
        config.addinivalue_line("markers", f"{kind}: {meaning}")
    config.addinivalue_line("markers", ALONE)
    if "FRAUD_KAFKA_BOOTSTRAP" in os.environ:
        os.environ["FRAUD_TEST_KAFKA_BOOTSTRAP"] = os.environ["FRAUD_KAFKA_BOOTSTRAP"]
    for name in [name for name in os.environ if name.startswith("FRAUD_") and not name.startswith(KEPT)]:
        del os.environ[name]
    for name in ("DAGSTER_HOME", "MLFLOW_TRACKING_URI", "BENTOML_PORT", "BENTOML_HOST"):
        os.environ.pop(name, None)
    os.environ.update(DO_NOT_TRACK="true", BENTOML_DO_NOT_TRACK="true")
    # read when OpenMP is loaded: threads that spin while they wait take what the other test processes would compute by,
    # and two trainings at once took four times the work
    os.environ["OMP_WAIT_POLICY"] = "passive"
    # OpenBLAS, which knows no such policy
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    Settings.model_config["env_file"] = None
    # how long an example takes says something of the machine's load, and nothing of the code
    hypothesis.settings.register_profile(
        "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("suite")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Leave what tests import to no collector: it stays, and looking through it again and again takes a tenth of the
    processor time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its folder's kind and run the longest first: processes share them by files, and a long one
    that begins last leaves the others idle. Files with tests that run alone come last of their kind: such a test waits
    until the others' tests are over, which are short by then."""
    order = list(reversed(KINDS))

    def kind(item: pytest.Item) -> str:
        return item.path.relative_to(TESTS).parts[0]

    for item in items:
        if kind(item) in KINDS:
            item.add_marker(kind(item))
    alone = {item.path for item in items if item.get_closest_marker("alone") is not None}
    items.sort(key=lambda item: (order.index(kind(item)) if kind(item) in KINDS else 0, item.path in alone))


def _lock(run: int, name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"fraud-tests-{run}-{name}.lock"


@contextmanager
def _held(name: str, how: int) -> Iterator[None]:
    """A lock that the processes of one run of the suite share: they are children of one."""
    with _lock(os.getppid(), name).open("w") as file:
        fcntl.flock(file, how)
        yield


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a test that is marked `alone` begin when no other runs, and the others of all processes wait for its end."""
    with ExitStack() as held:
        if "PYTEST_XDIST_WORKER" in os.environ:
            if item.get_closest_marker("alone") is not None:
                held.enter_context(_held("door", fcntl.LOCK_EX))
                held.enter_context(_held("room", fcntl.LOCK_EX))
            else:
                # who waits to be alone has shut the door, so that nobody goes in meanwhile
                with _held("door", fcntl.LOCK_SH):
                    held.enter_context(_held("room", fcntl.LOCK_SH))
        return (yield)


def pytest_unconfigure() -> None:
    """Leave no lock behind: this process may be the one whose children shared them."""
    # else libraries say at the end that something of theirs was never given back
    gc.unfreeze()
    for name in ("door", "room"):
        _lock(os.getpid(), name).unlink(missing_ok=True)


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture
def port() -> int:
    """A free loopback port."""
    return free_port()


@pytest.fixture
def make_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with a temporary home and free ports; keyword arguments replace single fields."""

    def make(**fields: Any) -> Settings:
        ports = {
            name: free_port()
            for name in ("dagster_port", "service_port", "mlflow_port", "log_port")
            if name not in fields
        }
        return Settings(**{"home": tmp_path / "home", **ports, **fields})

    return make


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    """Default settings with a temporary home; no Redis is started by them."""
    return make_settings()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real redis-server of this test process, without persistence."""
    with begin_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_url(redis_server: str) -> str:
    """URL of the test process's Redis, empty."""
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    return redis_server


def pytest_report_header() -> str:
    """Say which Kafka the inference log's tests use."""
    from tests.integration.kafka_kit import wanted

    kinds = {"given": "the broker of FRAUD_KAFKA_BOOTSTRAP", "real": "a real one, fetched with Maven"}
    return f"Kafka of the tests: {kinds.get(wanted(), 'the mock cluster of librdkafka (a real one: make test-kafka)')}"
