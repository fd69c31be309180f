"""Nothing of a payment reaches logs or metrics: canary strings through the engine, whatever breaks in it."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraud_platform.online.wire import StoreError
from tests.engine_kit import World, body

CANARIES = {
    "user_id": "canary-user",
    "device_id": "canary-device",
    "transaction_id": "canary-transaction",
    "merchant_id": "canary-merchant",
    "amount": 87654.32,
}
TRACES = ("canary", "87654", "8765432")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    for explainer in world.explainers:
        explainer.close()


async def test_no_identifier_and_no_amount_is_logged_whatever_breaks(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = world.engine()
    assert (await engine.decide(body(**CANARIES), "default")).status == 200
    # the same transaction with another body, a body that is none, and fields of the wrong kind
    assert (await engine.decide(body(**{**CANARIES, "amount": 1}), "default")).status == 409
    assert (await engine.decide(b'{"user_id": "canary-user", "amount": 87654.32', "default")).status == 400
    assert (await engine.decide(body(**{**CANARIES, "country": "canary-user"}), "default")).status == 422
    # stores, model and disk fail, each with a traceback
    world.features.failing = True
    assert (await engine.decide(body(**{**CANARIES, "transaction_id": "canary-2"}), "default")).status == 200
    world.features.failing = False
    broken = world.engine()
    broken.model.compiled.broken = True  # type: ignore[union-attr]
    assert (await broken.decide(body(**{**CANARIES, "transaction_id": "canary-3"}), "default")).status == 200
    world.redis.down = True
    await world.engine().decide(body(**{**CANARIES, "transaction_id": "canary-4"}), "default")
    said = "\n".join(caplog.handler.format(entry) for entry in caplog.records)
    assert "failed" in said, "nothing was logged at all: the test proves nothing"
    assert [trace for trace in TRACES if trace in said] == []


def test_the_canaries_would_be_seen(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise StoreError("no answer for canary-user")
    except StoreError:
        logging.getLogger("fraud_platform.decision").exception("read failed")
    assert "canary" in "\n".join(caplog.handler.format(entry) for entry in caplog.records)


METRICS = """
import json, sys
from prometheus_client import REGISTRY, generate_latest
from bento.metrics import PrometheusMeter
from tests.record_kit import record
import msgspec
canaries = json.loads(sys.argv[1])
meter = PrometheusMeter()
request = msgspec.structs.replace(
    record().request, amount_minor=8765432,
    **{name: value for name, value in canaries.items() if name != "amount"})
decided = record(request=request, amount=8765432, caller="canary-caller")
meter.decided(decided, False); meter.decided(decided, True)
meter.took("read", 0.001); meter.answered("/v1/predict", 200, 0.001); meter.failed("read"); meter.dropped()
meter.flush()
print(generate_latest(REGISTRY).decode())
"""


def test_no_metric_carries_an_identifier_or_an_amount() -> None:
    # in a process of its own: prometheus_client's registry is one for all
    done = subprocess.run(
        [sys.executable, "-c", METRICS, json.dumps(CANARIES)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "fraud_decisions_total" in done.stdout
    assert [trace for trace in TRACES if trace in done.stdout] == []
