"""One worker of the decision service put together: settings to engine, and what has to be closed again.

What belongs here: composition, start-up, readiness. What does not: routes (`gateway`), decisions (the domain).
"""

import asyncio
import os
import sys
import time

import msgspec
from redis.asyncio import Redis
from redis.exceptions import RedisError

from bento.metrics import PrometheusMeter
from fraud_platform.decision.answer import Answer
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.rates import LakeRates
from fraud_platform.decision.serving_model import load_model
from fraud_platform.inference_log.spool import SpoolWriter
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import Bundle, current_release
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.store import OnlineStore
from fraud_platform.settings import Settings

SEARCH_DAYS = 30
RATES_SECONDS = 600
PROBE_SECONDS = 1.0


def clock() -> int:
    """The present as UTC microseconds since 1970."""
    return time.time_ns() // 1_000


def preflight(settings: Settings) -> None:
    """What every worker will need, checked once before any starts.

    Raises NoReleaseError, BundleError, RedisUnavailableError; each says what to do.
    """
    Bundle.load(current_release(settings.home))
    ensure_redis(settings)


def keep_sklearn_out() -> None:
    """Make `import xgboost` leave scikit-learn, SciPy and pandas aside: 5 s of start-up and 100 MB that scoring never
    uses. An entry of None in sys.modules is Python's documented way to say that a module cannot be imported, and
    XGBoost does without."""
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]


class Runtime:
    """A worker's engine and its resources. Create inside the event loop; `close` when done."""

    def __init__(self, settings: Settings) -> None:
        keep_sklearn_out()
        url = ensure_redis(settings)
        model = load_model(current_release(settings.home), settings.policy_version)
        meter = PrometheusMeter()
        self._faults = FaultLog(clock, meter.failed)
        self._redis = Redis.from_url(url)
        self._store = OnlineStore(url, ttl_days=settings.online_ttl_days, default_medians=model.medians)
        self._spool = SpoolWriter(settings.home, f"{os.getpid()}-{clock()}")
        self._rates = LakeRates(open_lake(settings), settings.base_currency)
        self._rates.refresh()
        decisions = Decisions(self._redis)
        self._explainer = Explainer(
            store=self._store,
            decisions=decisions,
            rates=self._rates,
            home=settings.home,
            base_currency=settings.base_currency,
            search_days=SEARCH_DAYS,
        )
        self.engine = DecisionEngine(
            store=self._store,
            decisions=decisions,
            model=model,
            rates=self._rates,
            recorder=self._spool,
            explainer=self._explainer,
            meter=meter,
            clock=clock,
            base_currency=settings.base_currency,
        )
        self._refreshing = asyncio.get_running_loop().create_task(self._keep_rates_fresh())

    async def decide(self, body: bytes, caller: str) -> Answer:
        """`DecisionEngine.decide`."""
        return await self.engine.decide(body, caller)

    async def explain(self, body: bytes, caller: str) -> Answer:
        """`DecisionEngine.explain`."""
        return await self.engine.explain(body, caller)

    def failed(self, stage: str, error: BaseException) -> None:
        """Count and log an error that the transport met."""
        self._faults.report(stage, error)

    async def readiness(self) -> Answer:
        """200 when payments can be decided, else 503; the body says what is there."""
        checks: dict[str, dict[str, object]] = {"model": {"ok": True, "version": self.engine.model.version}}
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                snapshots = await self._store.snapshots()
        except (RedisError, OSError, TimeoutError) as error:
            checks["redis"] = {"ok": False, "detail": type(error).__name__}
            checks["snapshots"] = {"ok": False}
        else:
            checks["redis"] = {"ok": True}
            checks["snapshots"] = {"ok": all(snapshots.values()), **snapshots}
        ready = all(check["ok"] for check in checks.values())
        return Answer(200 if ready else 503, msgspec.json.encode({"ready": ready, "checks": checks}))

    async def _keep_rates_fresh(self) -> None:
        while True:
            await asyncio.sleep(RATES_SECONDS)
            try:
                await asyncio.to_thread(self._rates.refresh)
            except Exception as error:  # noqa: BLE001 - the old rates stay in force; counted, logged, tried again
                self._faults.report("rates", error)

    async def close(self) -> None:
        """Give everything back."""
        self._refreshing.cancel()
        await asyncio.to_thread(self._explainer.close)
        await self._store.close()
        await self._redis.aclose()
        self._spool.close()
