"""The reference pattern, as it is usually assembled: FastAPI, redis.asyncio, HGETALL of 50 string values,
`predict(DMatrix)`, a fire-and-forget log. What does not belong here: anything that makes it faster or slower than that.
"""

import asyncio
import json
import os
import time
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import redis.asyncio as redis
import xgboost
from fastapi import FastAPI
from pydantic import BaseModel

FEATURES = json.loads(os.environ["BENCH_FEATURES"])
_tasks: set[asyncio.Task[None]] = set()


class Payment(BaseModel):
    """A payment to decide."""

    transaction_id: str
    user_id: str
    merchant_id: str
    amount: float
    currency: str
    country: str
    timestamp: str


@asynccontextmanager
async def _lifespan(app: FastAPI):  # type: ignore[no-untyped-def]
    app.state.redis = redis.Redis.from_url(os.environ["BENCH_REDIS"])
    app.state.booster = xgboost.Booster()
    app.state.booster.load_model(os.environ["BENCH_MODEL"])
    app.state.log = open(os.environ["BENCH_LOG"], "a", buffering=1)  # noqa: PTH123, SIM115 - for as long as it lives
    yield
    await app.state.redis.aclose()


app = FastAPI(lifespan=_lifespan)


async def _log(record: dict[str, Any]) -> None:
    app.state.log.write(json.dumps(record) + "\n")


@app.get("/readyz")
async def ready() -> dict[str, bool]:
    """Answers once the model is loaded."""
    return {"ready": True}


@app.post("/v1/predict")
async def predict(payment: Payment) -> dict[str, Any]:
    """Read, score, decide, log."""
    began = time.perf_counter()
    values = await app.state.redis.hgetall(f"features:{payment.user_id}")
    vector = np.array([[float(values[name.encode()]) for name in FEATURES]], np.float32)
    score = float(app.state.booster.predict(xgboost.DMatrix(vector, feature_names=FEATURES))[0])
    decision = "block" if score > 0.7 else "allow"
    record = {**payment.model_dump(), "score": score, "decision": decision, "seconds": time.perf_counter() - began}
    task = asyncio.create_task(_log(record))
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return {"transaction_id": payment.transaction_id, "score": score, "decision": decision}
