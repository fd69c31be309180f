"""What the exporter shows is what the tables hold, and a source that breaks takes none with it."""

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from fraud_platform.lake import Lake, open_lake
from fraud_platform.monitoring.exporter import Exporter
from fraud_platform.settings import Settings
from tests.redis_kit import begin_redis
from tests.watching_kit import DAY_END, fill_lake

BOUND = 64 * 1024**2
Failed = list[tuple[str, str]]


@pytest.fixture
def lake(settings: Settings) -> Lake:
    lake = open_lake(settings)
    fill_lake(lake)
    return lake


@pytest.fixture
def shown(settings: Settings) -> tuple[Exporter, Callable[..., float | None], Failed]:
    """An exporter, how to look a sample up, and the sources that failed."""
    registry, failed = CollectorRegistry(), []

    def told(source: str, error: BaseException) -> None:
        failed.append((source, type(error).__name__))

    made = Exporter(settings, registry, told)
    return made, lambda name, **labels: registry.get_sample_value(name, labels), failed


def test_the_newest_days_are_shown(lake: Lake, shown: tuple[Exporter, Callable[..., float | None], Failed]) -> None:
    made, value, _ = shown
    assert value("fraud_score_psi") is None
    made.step()
    assert value("fraud_table_rows", table="training_set") == 3
    assert value("fraud_table_newest_day_end_seconds", table="inference_log") == pytest.approx(DAY_END, abs=1)
    assert value("fraud_feature_psi", feature="amount") == 0.3
    assert value("fraud_feature_psi", feature="score") is None
    assert value("fraud_score_psi") == 0.01
    assert value("fraud_feature_psi_usual", feature="amount") == 0.05
    assert value("fraud_drift_rows") == 2_000
    assert value("fraud_labelled_decisions") == 2_020
    assert value("fraud_fraud_rate") == pytest.approx(20 / 2_020)
    assert value("fraud_catch_rate") == pytest.approx(15 / 20)
    assert value("fraud_false_positive_rate") == pytest.approx(8 / 2_000)
    assert value("fraud_false_positive_rate_baseline") == pytest.approx(4 / 2_000)
    assert value("fraud_money_minor", outcome="blocked_fraud") == 150_000
    assert value("fraud_money_minor", outcome="blocked_good") == 4_000
    assert value("fraud_money_minor", outcome="missed_fraud") == 50_000
    assert value("fraud_model_catch_rate", model_version="fraud-detector/1") == 0.5
    assert value("fraud_job_last_success_timestamp_seconds", dagster_job="training") == DAY_END
    assert value("fraud_job_last_failure_timestamp_seconds", dagster_job="training") == DAY_END - 60
    assert value("fraud_job_last_duration_seconds", dagster_job="training") == 55


def test_an_empty_lake_says_nothing_and_fails_nothing_but_what_is_away(
    shown: tuple[Exporter, Callable[..., float | None], Failed],
) -> None:
    made, value, failed = shown
    made.step()
    # nobody started this home's Redis
    assert failed == [("metrics_redis", "ConnectionError")]
    assert value("fraud_catch_rate") is None
    assert value("fraud_money_minor", outcome="missed_fraud") is None


def test_a_source_that_breaks_is_shown_no_more_and_the_others_are(
    lake: Lake, shown: tuple[Exporter, Callable[..., float | None], Failed]
) -> None:
    made, value, failed = shown
    made.step()
    failed.clear()
    newest = lake.files("performance", "data.parquet")[-1]
    lake.write_bytes(newest, b"no parquet")
    made.step()
    assert ("metrics_performance", "ArrowInvalid") in failed
    assert value("fraud_catch_rate") is None
    assert value("fraud_score_psi") == 0.01


@pytest.mark.parametrize(
    ("maxmemory", "policy", "unsafe"), [(BOUND, "noeviction", 0), (0, "noeviction", 1), (BOUND, "volatile-lru", 1)]
)
def test_redis_memory_is_that_of_its_server(
    settings: Settings, tmp_path: Path, maxmemory: int, policy: str, unsafe: float
) -> None:
    registry = CollectorRegistry()
    with begin_redis(tmp_path, **{"maxmemory": maxmemory, "maxmemory-policy": policy}) as server:
        there = settings.model_copy(update={"redis_url": server.url})
        Exporter(there, registry, lambda source, error: pytest.fail(f"{source}: {error}")).step()

    def value(name: str) -> float:
        found = registry.get_sample_value(name, {"node": f"127.0.0.1:{server.port}"})
        assert found is not None
        return found

    assert 500_000 < value("fraud_redis_memory_used_bytes") < value("fraud_redis_memory_limit_bytes")
    # where no maxmemory is set: the machine's
    assert value("fraud_redis_memory_limit_bytes") == (maxmemory or psutil.virtual_memory().total)
    assert value("fraud_redis_evicted_keys_total") == 0
    assert value("fraud_redis_unsafe") == unsafe
