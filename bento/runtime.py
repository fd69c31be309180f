"""One worker of the decision service put together: settings to engine, and what has to be closed again.

What belongs here: composition, start-up, readiness. What does not: routes (`gateway`), decisions (the domain).
"""

import asyncio
import gc
import logging
import os
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from bento.metrics import PrometheusMeter
from bento.traces import TracedMeter, Tracer
from fraud_platform.channels import words
from fraud_platform.clock import clock_of
from fraud_platform.control.listen import Listener
from fraud_platform.control.store import ControlStore, control_url, place_of
from fraud_platform.decision import workers
from fraud_platform.decision.access import is_loopback, open_access
from fraud_platform.decision.answer import Answer
from fraud_platform.decision.api_keys import Scope
from fraud_platform.decision.arms import Challenger
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.budget import Budget
from fraud_platform.decision.decided_day import DecidedDays
from fraud_platform.decision.engine import DecisionEngine
from fraud_platform.decision.explain import Explainer
from fraud_platform.decision.faults import FaultLog
from fraud_platform.decision.feedback import FeedbackDesk
from fraud_platform.decision.identity import Decisions
from fraud_platform.decision.making import DecisionMaker
from fraud_platform.decision.policy import Policy
from fraud_platform.decision.policy_change import begin_policy
from fraud_platform.decision.policy_control import follow
from fraud_platform.decision.policy_desk import PolicyDesk
from fraud_platform.decision.policy_follow import NOT_KEPT, PolicyFollower
from fraud_platform.decision.policy_then import PolicyBook
from fraud_platform.decision.problem import unauthorized
from fraud_platform.decision.rates import LakeRates
from fraud_platform.decision.report_desk import ReportDesk
from fraud_platform.decision.serving_model import ServingModel, kept_releases, load_newest, load_to_serve
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.label_rules import label_rules
from fraud_platform.features.vector import VectorBuilder
from fraud_platform.hosts import Hosts
from fraud_platform.inference_log.neighbours import Neighbours
from fraud_platform.inference_log.record import DecisionRecord, encode_record
from fraud_platform.inference_log.recorder import PatientRecorder
from fraud_platform.inference_log.spool import SpoolWriter, left_unsettled
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.feedback import FeedbackWriter
from fraud_platform.ingest.feedback_index import FeedbackIndex
from fraud_platform.lake import open_lake
from fraud_platform.logs import set_up_logs
from fraud_platform.model.bundle import BundleError, NoReleaseError, current_release, release_folder
from fraud_platform.model.following import check_region
from fraud_platform.model.routing import Routing, read_routing
from fraud_platform.online.cold import ColdStore
from fraud_platform.online.embedded_postgres import postgres_address
from fraud_platform.online.embedded_redis import ensure_redis, redis_address
from fraud_platform.online.ladder import Ladder
from fraud_platform.online.recount import Recount
from fraud_platform.online.redis_memory import MemoryWatch
from fraud_platform.online.rows import Refusal, ViewRefusedError
from fraud_platform.online.sets import without_medians
from fraud_platform.online.shards import REDIS_ERRORS
from fraud_platform.online.snapshot_record import end_of_day
from fraud_platform.online.store import OnlineStore
from fraud_platform.online.wire import StoreError
from fraud_platform.packaging.packed import packed_release, start_from
from fraud_platform.settings import Settings

logger = logging.getLogger("fraud_platform.decision")

CODE = Path(__file__).parents[1]
"""The checkout, or the code of a Bento."""
OPENING_SECONDS = 2.0
"""How long a new worker waits for its first attempt at each store before it counts as ready without."""
RATES_SECONDS = 600
STANDING_SECONDS = 0.2
VERSIONS_SECONDS = 5.0
KEYS_SECONDS = 1.0
TAKE_SECONDS = 5.0
"""How long the listener waits for the event loop to take a policy."""
MEMORY_SECONDS = 1.0
"""How often Redis is asked what it has forgotten: so long may payments be decided by velocity that is too low."""
SPOOL_RECORDS = 200
"""Records written per turn when a disk that was full is back: some milliseconds of the event loop."""
GC_THRESHOLDS = (5_000, 20, 20)
"""A payment leaves nothing for the collector but what an error's traceback holds; what it looks at is mostly in use."""
RELEASE_SECONDS = 1.0
"""How soon a new release serves."""
RETRY_SECONDS = 30.0
"""How long a release that could not be loaded is left alone, unless somebody asks."""
RELOAD_SECONDS = 4.0
"""How long a request to reload waits for all workers: loading and warming a model takes a second or two."""


def preflight(settings: Settings) -> None:
    """What the first start needs, seen to once before any worker; what can be lost later is not asked of a worker. A
    Bento brings its release along.

    A home that was built and whose gate has passed no model is decided for by the rules.

    Raises NoReleaseError, BundleError, FollowingError, RedisUnavailableError; each says what to do.
    """
    check_region(settings.home, settings.region)
    packed = packed_release(CODE)
    if packed is not None:
        start_from(settings.home, packed, decides=settings.packed_release_decides, now=datetime.now(UTC))
    elif not kept_releases(settings.home):
        # here alone: it knows the whole platform, which is neither in a worker nor in a Bento
        from fraud_platform.run.current import was_built

        if not was_built(settings):
            current_release(settings.home)
    ensure_redis(settings)


def keep_sklearn_out() -> None:
    """Make `import xgboost` leave scikit-learn, SciPy and pandas aside: 5 s of start-up and 100 MB that scoring never
    uses. An entry of None in sys.modules is Python's documented way to say that a module cannot be imported, and
    XGBoost does without."""
    sys.modules.setdefault("sklearn", None)  # type: ignore[arg-type]


def leave_to_stay() -> None:
    """Take what is there now out of the garbage collector's rounds: imports and model are hundreds of thousands of
    objects that stay, and going over them would stop a worker for a sixth of a second every few thousand payments."""
    gc.freeze()


class Runtime:
    """A worker's engine and its resources. Create inside the event loop; `close` when done."""

    def __init__(self, settings: Settings) -> None:
        keep_sklearn_out()
        set_up_logs(settings.log_format)
        self._home = settings.home
        clock = self._clock = clock_of(settings)
        self._tracer = Tracer(settings.traces_url, settings.traces_share) if settings.traces_url else None
        meter = self._meter = PrometheusMeter() if self._tracer is None else TracedMeter(self._tracer)
        self._faults = FaultLog(clock, meter.failed)
        self._catalogue = CATALOGUE
        model = load_newest(settings.home, self._faults.report, self._catalogue)
        self._store = OnlineStore(
            redis_address(settings),
            ttl_days=settings.online_ttl_days,
            clock=clock,
            deadline=settings.read_deadline_ms / 1_000,
            recount=Recount(settings.home / "recount"),
            refused=self._refuse,
            catalogue=self._catalogue,
        )
        self._memory = MemoryWatch(redis_address(settings), clock=clock)
        self._warnings: list[str] = []
        self._cold = ColdStore(
            partial(postgres_address, settings),
            ttl_days=settings.cold_ttl_days,
            default_medians=without_medians(self._catalogue).medians,
            clock=clock,
            deadline=settings.cold_deadline_ms / 1_000,
            refused=self._refuse,
            catalogue=self._catalogue,
        )
        name = f"{os.getpid()}-{clock()}"
        self._spool = SpoolWriter(settings.home, name)
        self._neighbours = Neighbours(settings.home, name)
        self._recorder = PatientRecorder(self._spool, meter.dropped)
        self._labels = FeedbackWriter(settings.home, name)
        lake = open_lake(settings)
        self._rates = LakeRates(lake, settings.base_currency)
        try:
            self._rates.refresh()
        except Exception as error:  # noqa: BLE001 - cut off from the lake, payments in the base currency are decided
            self._faults.report("rates", error)
        breaker = partial(
            CircuitBreaker,
            clock=time.monotonic,
            failures=settings.breaker_failures,
            pause=settings.breaker_pause_ms / 1_000,
        )
        self._breakers = [breaker("redis"), breaker("postgres"), breaker("champion")]
        of_redis, of_postgres, of_champion = self._breakers
        features = Ladder(self._store, of_redis, self._faults.report, cold=(self._cold, of_postgres))
        self._decisions = decisions = Decisions(
            self._store,
            clock,
            self._supersede,
            given_up=lambda: self._faults.report("settle", RuntimeError("too many decisions wait for the store")),
            neighbours=self._told_beside,
        )
        self._store.reconnected = decisions.settle_recent_again
        maker = DecisionMaker(
            clock,
            settings.base_currency,
            settings.release_share,
            settings.seed,
            region=settings.region,
            catalogue=self._catalogue,
        )
        builder = VectorBuilder(self._catalogue)
        channel_words = words(settings.channel_synonyms)
        self._explainer = Explainer(
            features=features,
            decisions=decisions,
            rates=self._rates,
            home=settings.home,
            log=LogTable(lake),
            base_currency=settings.base_currency,
            channel_words=channel_words,
            search_days=settings.log_retention_days,
            builder=builder,
        )
        self._policies = PolicyFollower(settings, self._take_policy, self._faults.report, clock)
        self._settings, self._loop = settings, asyncio.get_running_loop()
        self.engine = DecisionEngine(
            features=features,
            decisions=decisions,
            maker=maker,
            model=model,
            model_breaker=of_champion,
            policy=self._policies.begin(),
            rates=self._rates,
            recorder=self._recorder,
            explainer=self._explainer,
            meter=meter,
            faults=self._faults,
            clock=clock,
            base_currency=settings.base_currency,
            channel_words=channel_words,
            builder=builder,
            budget=Budget(
                budget_ms=settings.budget_ms,
                network_ms=settings.network_ms,
                read_deadline_ms=settings.read_deadline_ms,
                request_features_ms=settings.request_features_ms,
                model_ms=settings.model_ms,
                log_ms=settings.log_ms,
            ),
            capacity=settings.capacity,
        )
        self._reports = ReportDesk(
            features=features,
            decisions=decisions,
            maker=maker,
            policy=lambda: self.engine.policy,
            past=PolicyBook(settings.home),
            rates=self._rates,
            recorder=self._recorder,
            clock=clock,
            base_currency=settings.base_currency,
            channel_words=channel_words,
            catalogue=self._catalogue,
        )
        self._decide_by(self.engine.policy)
        self._policy_desk = PolicyDesk(settings, clock)
        self._decided_days = DecidedDays(decisions, settings.home, LogTable(lake), settings.log_retention_days, clock)
        self._label_index = FeedbackIndex(settings.home)
        self._desk = FeedbackDesk(
            self._labels,
            self._label_index,
            self._decided_days.find,
            clock,
            rules=partial(label_rules, settings),
            per_minute=settings.feedback_per_minute,
            most_waiting=settings.feedback_waiting,
            waiting_days=settings.feedback_waiting_days,
        )
        self._access = open_access(
            settings.home,
            # whoever reaches the gateway reaches this service over loopback
            loopback=is_loopback(settings.service_host) and is_loopback(settings.gateway_host),
            tokens=settings.token_check,
            failed=lambda error: self._faults.report("access", error),
        )
        self._hosts = Hosts(settings.allowed_hosts)
        self._asked = 0
        self._not_taken: str | None = None
        self._started = workers.process_start(os.getpid())
        self._refused: dict[str, float] = {}
        self._release = model.version if model else ""
        work = (
            self._store.open(),
            self._cold.open(),
            self._keep_rates_fresh(),
            self._keep_model_fresh(),
            self._policies.run(),
            self._keep_keys_fresh(),
            self._keep_standing(),
            self._keep_settling(),
            self._keep_versions(),
            self._keep_memory_watched(),
        )
        self._tasks = [self._loop.create_task(each) for each in work]
        self._control = self._listener()
        self._opening, self._opened_by = self._tasks[:2], time.monotonic() + OPENING_SECONDS
        gc.collect()
        gc.set_threshold(*GC_THRESHOLDS)
        leave_to_stay()

    def caller(self, authorization: bytes | None, scope: Scope, reached: str) -> str:
        """Who asks. reached: the address of this machine that the request came to. Raises Problem 401, 403."""
        if not self._access.required and not is_loopback(reached):
            raise unauthorized("this service has no API keys yet and answers without keys on loopback only")
        return self._access.check(authorization, scope)

    def admits(self, host: bytes, origin: bytes) -> bool:
        """Whether a request is of no web page, or of one of ours. Once keys exist, callers may use any name for this
        service: a page of others has none to show."""
        known = self._access.required or self._hosts.knows(host)
        return known and self._hosts.welcomes(origin, host)

    async def decide(self, body: bytes, caller: str) -> Answer:
        """`DecisionEngine.decide`."""
        if self._tracer is None:
            return await self.engine.decide(body, caller)
        with self._tracer.span("decide"):
            return await self.engine.decide(body, caller)

    async def decide_batch(self, body: bytes, caller: str) -> Answer:
        """`DecisionEngine.decide_batch`."""
        if self._tracer is None:
            return await self.engine.decide_batch(body, caller)
        with self._tracer.span("decide_batch"):
            return await self.engine.decide_batch(body, caller)

    async def explain(self, body: bytes, caller: str) -> Answer:
        """`DecisionEngine.explain`."""
        return await self.engine.explain(body, caller)

    async def report(self, body: bytes, caller: str) -> Answer:
        """`ReportDesk.take`."""
        return await self.engine.answered("report", self._reports.take(body, caller))

    async def report_for(self, body: bytes, _: str) -> Answer:
        """`ReportDesk.take_for`."""
        return await self.engine.answered("report", self._reports.take_for(body))

    async def feedback(self, body: bytes, caller: str) -> Answer:
        """`FeedbackDesk.take`."""
        return await self.engine.answered("feedback", self._desk.take(body, caller))

    async def reload(self, _: bytes, __: str) -> Answer:
        """Every worker looks at the registry now; says what each serves then."""
        return Answer(200, msgspec.json.encode(await workers.reload_all(self._home, RELOAD_SECONDS)))

    async def policy(self, body: bytes, caller: str) -> Answer:
        """`PolicyDesk.take`; this worker decides by the change before it answers, the others within a second."""
        answer = await self.engine.answered("policy", self._policy_desk.take(body, caller))
        await self._policies.look()
        return answer

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count and time an answer over HTTP."""
        self._meter.answered(route, status, seconds)

    def failed(self, stage: str, error: BaseException) -> None:
        """Count and log an error that the transport met."""
        self._faults.report(stage, error)

    async def readiness(self) -> Answer:
        """200: a worker that runs can decide, by its rules at the least; the body says what is not as it should be. 503
        while it has not tried its stores yet, for it may be about to have what it seems to lack."""
        model = self.engine.model
        checks: dict[str, dict[str, object]] = {"model": {"ok": model is not None, "version": self._release or None}}
        for name, store, held in (("redis", self._store, "snapshots"), ("postgres", self._cold, "cold_snapshots")):
            try:
                snapshots = await store.snapshots()
            except StoreError as error:
                checks[name] = {"ok": False, "detail": str(error)}
                checks[held] = {"ok": False}
            else:
                checks[name] = {"ok": True}
                refused = store.refused()
                told = {"refused": refused} if refused else {}
                named = {view.name: day for view, day in snapshots.items()}
                checks[held] = {"ok": all(named.values()) and not refused, **named, **told}
        policy = self.engine.policy
        checks["policy"] = {"ok": policy.asks_model, "version": policy.version, "kill_switch": policy.kill_switch}
        checks["breakers"] = {
            "ok": all(breaker.state == "closed" for breaker in self._breakers),
            **{breaker.name: breaker.state for breaker in self._breakers},
        }
        ready = all(opening.done() for opening in self._opening) or time.monotonic() > self._opened_by
        if self._control is not None:
            checks["control"] = {"ok": self._control.answers}
            # neither the store nor a copy of what it said: nobody knows what people have set
            ready = ready and policy.version != NOT_KEPT
        degraded = [name for name, check in checks.items() if not check["ok"]]
        body = msgspec.json.encode({"ready": ready, "degraded": degraded, "warnings": self._warnings, "checks": checks})
        return Answer(200 if ready else 503, body)

    async def _keep_rates_fresh(self) -> None:
        while True:
            await asyncio.sleep(RATES_SECONDS)
            try:
                await asyncio.to_thread(self._rates.refresh)
            except Exception as error:  # noqa: BLE001 - the old rates stay in force; counted, logged, tried again
                self._faults.report("rates", error)

    def _refuse(self, refusal: Refusal) -> None:
        """Count a row that was not read, and say why in the log."""
        self._meter.refused(refusal)
        self._faults.report(f"{refusal.store}_rows", ViewRefusedError(refusal.detail))

    def _decide_by(self, policy: Policy) -> None:
        self.engine.policy = policy
        self._meter.decides_by(policy)

    def _take_policy(self, policy: Policy) -> None:
        self._decide_by(policy)
        self._announce()

    def _listener(self) -> Listener | None:
        """What follows the control store, running; None where none is named."""
        url = control_url(self._settings)
        if url is None:
            return None
        listener = Listener(
            url,
            self._follow_control,
            lambda: msgspec.json.encode(msgspec.structs.replace(self._note(), home=place_of(self._settings))),
            self._control_failed,
        )
        listener.start()
        return listener

    def _control_failed(self, error: Exception) -> None:
        """In the listener's thread."""
        self._loop.call_soon_threadsafe(self._faults.report, "control", error)

    def _follow_control(self, store: ControlStore) -> None:
        """Take what was changed in other homes, and return when this worker decides by it. In the listener's thread."""
        if self.engine.policy.version == NOT_KEPT:
            # neither was there at the start
            begin_policy(self._settings, datetime.fromtimestamp(self._clock() / 1_000_000, UTC))
        else:
            follow(self._settings, store)
        # also where another worker of this home has brought it
        asyncio.run_coroutine_threadsafe(self._policies.look(), self._loop).result(TAKE_SECONDS)

    async def _keep_keys_fresh(self) -> None:
        """Take changed keys also while nobody asks, and say so: whoever revoked one waits for that."""
        told = self._access.seen
        while True:
            await asyncio.sleep(KEYS_SECONDS)
            self._access.look()
            if self._access.seen != told:
                told = self._access.seen
                self._announce()

    async def _keep_standing(self) -> None:
        """Write what waits in memory once the disk takes it again, also while no payment comes; show how we stand."""
        while True:
            await asyncio.sleep(STANDING_SECONDS)
            self._meter.standing(
                self._breakers, self.engine.under_way, self._recorder.waiting, self._decisions.unsettled
            )
            self._meter.flush()
            try:
                self._recorder.retry(SPOOL_RECORDS)
            except OSError as error:
                self._faults.report("record", error)

    async def _keep_settling(self) -> None:
        """Settle what was told while the store was away: this worker's, and what dead ones left behind."""
        try:
            for record, payload in await asyncio.to_thread(left_unsettled, self._home, self._clock()):
                self._decisions.take_up(record, payload)
        except (OSError, msgspec.MsgspecError) as error:
            self._faults.report("settle", error)
        while True:
            try:
                await self._decisions.run()
            except Exception as error:  # noqa: BLE001 - counted, logged, tried again: what was told has to meet the store
                self._faults.report("settle", error)
                await asyncio.sleep(STANDING_SECONDS)

    def _told_beside(self, caller: str, transaction_id: str) -> bytes | None:
        """What another worker of this home told."""
        try:
            return self._neighbours.find(caller, transaction_id)
        except (OSError, msgspec.MsgspecError) as error:
            self._faults.report("spool", error)
            return None

    def _supersede(self, record: DecisionRecord) -> None:
        """Keep the mark of a decision that was told and does not stand."""
        self._meter.superseded()
        try:
            self._recorder.append(record.day, encode_record(record))
        except OSError as error:
            # in memory until the disk takes it, as any record
            self._faults.report("record", error)

    async def _keep_versions(self) -> None:
        """Show which models and snapshots payments are decided by; a store that is away keeps its last snapshot."""
        while True:
            challenger = self.engine.challenger
            self._meter.serves(self._release or None, challenger.model.version if challenger else None)
            for name, store in (("redis", self._store), ("postgres", self._cold)):
                with suppress(StoreError):
                    days = defaultdict(list)
                    for view, day in (await store.snapshots()).items():
                        days[view.entity].append(end_of_day(day) / 1e6 if day else 0.0)
                    for entity, ends in days.items():
                        # of two sets the one that is further behind
                        self._meter.snapshot(name, entity, min(ends))
            self._meter.forget_dead_workers()
            await asyncio.sleep(VERSIONS_SECONDS)

    async def _keep_memory_watched(self) -> None:
        """Own up to what Redis has forgotten by itself, and say where it is set to."""
        while True:
            try:
                warnings = await asyncio.to_thread(self._memory.look)
            except (*REDIS_ERRORS, OSError) as error:
                self._faults.report("redis_memory", error)
            else:
                for warning in set(warnings) - set(self._warnings):
                    logger.warning("%s", warning)
                self._warnings = warnings
            await asyncio.sleep(MEMORY_SECONDS)

    async def _keep_model_fresh(self) -> None:
        """Take what was released within a second, and whenever it is asked for."""
        self._asked = workers.asked(self._home)
        self._announce()
        while True:
            number, challenger = workers.asked(self._home), self._challenger
            error: Exception | None = None
            try:
                routing = read_routing(self._home)
                # first, and of weight alone: a roll-back waits for nothing
                self._weigh(routing)
                await self._follow(routing, asked=number != self._asked)
            except (NoReleaseError, BundleError, OSError) as caught:
                # what serves goes on serving
                error = caught
                self._faults.report("model", error)
            if number != self._asked or error is not None or challenger != self._challenger:
                self._asked, self._not_taken = number, None if error is None else str(error)
                self._announce()
            await asyncio.sleep(RELEASE_SECONDS)

    def _weigh(self, routing: Routing) -> None:
        """Give the loaded challenger its weight, or none at all when it is one no more."""
        challenger = self.engine.challenger
        if challenger is not None:
            same = challenger.model.release == routing.challenger
            self.engine.challenger = replace(challenger, weight=routing.weight) if same else None
        self._meter.weighs(routing.weight)

    async def _follow(self, routing: Routing, *, asked: bool) -> None:
        """Load what is named and not loaded yet; asked: also what was refused a moment ago. Raises BundleError."""
        if routing.release != self._release.replace("/", "-") and (asked or not self._was_refused(routing.release)):
            model = await self._loaded(routing.release)
            self.engine.model, self._release, self._not_taken = model, model.version, None
            self._announce()
        wanted = routing.challenger
        if wanted and self.engine.challenger is None and (asked or not self._was_refused(wanted)):
            self.engine.challenger = Challenger(await self._loaded(wanted), routing.weight)

    async def _loaded(self, release: str) -> ServingModel:
        try:
            model = await asyncio.to_thread(load_to_serve, release_folder(self._home, release), self._catalogue)
        except (BundleError, OSError):
            self._refused[release] = time.monotonic() + RETRY_SECONDS
            raise
        leave_to_stay()
        return model

    def _was_refused(self, release: str) -> bool:
        return time.monotonic() < self._refused.get(release, 0.0)

    @property
    def _challenger(self) -> str | None:
        """The release that scores beside the champion."""
        return self.engine.challenger.model.release if self.engine.challenger else None

    def _note(self) -> workers.WorkerNote:
        return workers.WorkerNote(
            pid=os.getpid(),
            model_version=self._release or None,
            asked=self._asked,
            error=self._not_taken,
            challenger=self._challenger,
            policy=self.engine.policy.version,
            keys=self._access.seen,
            started=self._started,
        )

    def _announce(self) -> None:
        try:
            workers.announce(self._home, self._note())
        except OSError as failed:
            self._faults.report("announce", failed)

    async def close(self) -> None:
        """Give everything back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._control is not None:
            await asyncio.to_thread(self._control.end)
        workers.leave(self._home, os.getpid())
        await asyncio.to_thread(self._explainer.close)
        await asyncio.to_thread(self._reports.close)
        await self._store.close()
        await asyncio.to_thread(self._memory.close)
        await self._cold.close()
        await asyncio.to_thread(self._decided_days.close)
        self._label_index.close()
        self._labels.close()
        try:
            self._recorder.retry(self._recorder.waiting)
        except OSError as error:
            self._faults.report("record", error)
        self._spool.close()
        self._meter.flush()
        if self._tracer is not None:
            await asyncio.to_thread(self._tracer.close)
