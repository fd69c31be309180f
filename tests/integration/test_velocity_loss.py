"""After a loss of Redis, velocity owns up to the attempts that only Redis had counted."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import msgspec
import pytest
from redis import Redis

from assets.online import online_velocity
from assets.resources import Platform
from fraud_platform.inference_log.search import decided_since
from fraud_platform.inference_log.spool import SpoolWriter
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake
from fraud_platform.online import velocity
from fraud_platform.settings import Settings

LAST_DAY = datetime.now(UTC).date() - timedelta(days=1)


def epoch_after_warming(home: Path, redis_url: str) -> velocity.Epoch:
    settings = Settings(home=home, redis_url=redis_url, history_start=LAST_DAY - timedelta(days=2))
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"platform": Platform(settings, datetime.now(UTC))}
        assert dg.materialize([online_velocity], instance=instance, resources=resources).success
    with Redis.from_url(redis_url) as client:
        return msgspec.json.decode(client.get(velocity.epoch_key()), type=velocity.Epoch)


def test_before_the_first_payment_the_lake_knows_every_attempt(tmp_path: Path, redis_url: str) -> None:
    assert epoch_after_warming(tmp_path, redis_url).complete_since == 0


def test_attempts_that_only_the_lost_redis_counted_leave_windows_unknown(tmp_path: Path, redis_url: str) -> None:
    before = int(datetime.now(UTC).timestamp() * 1_000_000)
    SpoolWriter(tmp_path, "worker").append(LAST_DAY + timedelta(days=1), b"a decision of today")
    assert epoch_after_warming(tmp_path, redis_url).complete_since > before + velocity.COUNTED_AHEAD


@pytest.mark.parametrize(("decided", "known"), [(date(2026, 3, 1), False), (date(2026, 3, 2), True)])
def test_only_decisions_after_the_day_count(tmp_path: Path, decided: date, known: bool) -> None:
    SpoolWriter(tmp_path, "worker").append(decided, b"a decision")
    assert decided_since(tmp_path, LogTable(Lake(str(tmp_path / "lake"))), date(2026, 3, 1)) is known
