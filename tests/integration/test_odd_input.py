"""Odd input that the API takes halts no night: a collection of it is decided, reported and labelled, and every blocking
check of the nights after it passes."""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import redis

from assets.definitions import build_definitions
from assets.partitions import key_range_tags
from fraud_platform.clock import move_clock
from fraud_platform.currency import MAX_MINOR, Rates, exponent
from fraud_platform.features import tables
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, days_between, open_lake
from fraud_platform.model.data import labels_before
from fraud_platform.settings import Settings
from tests.integration.decided_kit import Deciding, deciding, load, micros

FIRST_DAY, DAY = date(2026, 3, 1), date(2026, 3, 4)
BEFORE, QUIET = DAY - timedelta(days=1), DAY + timedelta(days=1)
LABELLED = QUIET + timedelta(days=1)
LAST_DAY = date(2026, 3, 12)
"""Far enough for the fraud rates, which look back behind a delay of seven days."""
SECOND, HOUR = 1_000_000, 3_600_000_000
CALLERS = ("default", "another", "A" * 64)
RATES = {"USD": ("0.91", "0.99"), "JPY": ("0.0061", "0.0071")}
"""Euro per unit until LABELLED, and from it on: the largest amount that was taken on it is too large at the night's."""

MAPPING = """\
path: {folder}/history.csv
currency: EUR
rates: {folder}/rates.csv
columns: {{transaction_id: id, user_id: user, merchant_id: shop, amount: amount, timestamp: at, country: country}}
label: {{column: fraud, arrives_after_days: 0}}
"""

AMOUNTS = ["0", "0.00", "0e9", "0.01", "1e10", "9999999999.99", "10000000000.00", "1E-2"]
TIMES = [
    "0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999-14:00", "1969-12-31T23:59:59Z",
    "2026-03-03T03:00:00Z", "2026-03-03T02:59:59.999999Z", "2026-03-04T03:05:00Z", "2026-03-04T03:05:00.000001Z",
    "2300-01-01T00:00:00Z",
]  # fmt: skip
TEXTS = [
    "x" * 128, "é" * 128, "\U0001d4b3" * 128, "e\u0301" * 64, "\u200bzero\u200dwidth", "مرحبا",
    "\U0001f469\u200d\U0001f467", "' or 1=1; --", '"', "\\", "date=2026-01-01", "../../etc", "null", "NaN", "0", "007",
    "1e5", "%s {} $1", "a b", "a|b:c,d;e=f",
]  # fmt: skip
CHANNELS = ["", "  ", "carrier pigeon", "ONLINE", "ｏｎｌｉｎｅ", "é" * 64, "null", "0"]
PLACES = [{"lat": -90, "lon": 180}, {"lat": 90, "lon": -180}, {"lat": 1e-300, "lon": -0.0}, None]
REFUSED = [
    {"amount": "10000000000.01"}, {"amount": "-0.01"}, {"amount": "0.001"}, {"amount": "1e999"}, {"currency": "XAU"},
    {"currency": "JPY", "amount": "0.5"}, {"currency": "KWD", "amount": "1.2345"}, {"country": "ZZ"}, {"country": ""},
    {"user_id": "x" * 129}, {"user_id": "\u200b"}, {"user_id": " "}, {"device_id": "a\x00b"}, {"channel": "x" * 65},
    {"transaction_id": "\ud834"}, {"merchant_id": "\u0958" * 128}, {"timestamp": "2026-03-04T03:00:00"},
    {"timestamp": "2026-13-01T00:00:00Z"}, {"location": {"lat": 91, "lon": 0}},
]  # fmt: skip


@dataclass
class World:
    """Days on which the API was asked odd things, and the runs of the nights after them."""

    settings: Settings
    lake: Lake
    defs: dg.Definitions
    instance: dg.DagsterInstance
    statuses: defaultdict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    """Of the answers, by what was asked."""
    runs: dict[str, dg.ExecuteInProcessResult] = field(default_factory=dict)

    def run(self, name: str, job: str, first: date, last: date) -> None:
        """Run a job over some days."""
        self.runs[name] = self.defs.resolve_job_def(job).execute_in_process(
            instance=self.instance, tags=key_range_tags([first, last]), raise_on_error=False
        )


def payment(name: str, **changes: Any) -> bytes:
    """A payment as a caller sends it; its amount as text, since a float could not hold every one."""
    plain = {
        "transaction_id": name, "user_id": "u-1", "merchant_id": "m-1", "amount": "12.50", "country": "DE",
        "user_country": "DE", "timestamp": "2026-03-04T03:00:00Z", **changes,
    }  # fmt: skip
    amount = plain.pop("amount")
    return f'{json.dumps(plain)[:-1]}, "amount": {amount}}}'.encode()


def odd_payments() -> Iterator[bytes]:
    """One payment per oddity, each otherwise plain."""
    yield from (payment(f"amount-{n}", amount=amount, user_id="amounts") for n, amount in enumerate(AMOUNTS))
    yield from (payment(f"time-{n}", timestamp=time) for n, time in enumerate(TIMES))
    yield from (payment(text) for text in TEXTS)
    for name in ("user_id", "merchant_id", "device_id"):
        yield from (payment(f"{name}-{n}", **{name: text}) for n, text in enumerate(TEXTS))
    yield from (payment(f"channel-{n}", channel=text) for n, text in enumerate(CHANNELS))
    yield from (payment(f"category-{n}", merchant_category=text) for n, text in enumerate(CHANNELS))
    yield from (payment(f"place-{n}", location=place) for n, place in enumerate(PLACES))
    yield from (payment(f"country-{code}", country=code, user_country=code) for code in ("XK", "AC", "AN", "TA"))
    empty = dict.fromkeys(("device_id", "user_country", "merchant_category", "channel", "currency"), "")
    yield payment("empty", **empty)
    for code in ("KWD", "ISK", "BGN", "CLF", "JPY", "USD", "EUR"):
        for minor in (0, 1, largest(code)):
            yield payment(f"{code}-{minor}", currency=code, amount=in_units(minor, code), user_id=f"pays-{code}")


def largest(code: str) -> int:
    """The largest amount that the API takes until LABELLED, in minor units."""
    rates = Rates("EUR", {each: round(float(old) * 1e9) for each, (old, _) in RATES.items()})
    return rates.largest(code) if code in rates.currencies else MAX_MINOR


def in_units(minor: int, code: str) -> str:
    return f"{minor}e-{exponent(code)}"


async def ask(world: World, worker: Deciding, what: str, caller: str, body: bytes) -> None:
    """Ask one of the API's operations, and note the status of the answer, or of each answer of a batch."""
    engine, reports = worker.engine, worker.reports
    asked = {
        "predict": lambda: engine.decide(body, caller),
        "refused": lambda: engine.decide(body, caller),
        "batch": lambda: engine.decide_batch(body, caller),
        "report": lambda: engine.answered("report", reports.take(body, caller)),
        "gateway": lambda: engine.answered("report", reports.take_for(body)),
        "feedback": lambda: engine.answered("feedback", worker.labels.take(body, caller)),
    }[what]
    answer = await asked()
    told = json.loads(answer.body)
    world.statuses[what].update([each["status"] for each in told["answers"]] if what == "batch" else [answer.status])


def told(at: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at)).isoformat()


def report(number: int, body: bytes, at: int, **fields: Any) -> bytes:
    outer = {
        "decision_id": f"{number:032x}", "decided_at": told(at), "cause": "timeout",
        "decision": "allow", "reason": "service_unavailable_fallback", **fields,
    }  # fmt: skip
    return f'{json.dumps(outer)[:-1]}, "payment": {body.decode()}}}'.encode()


async def odd_day(world: World, worker: Deciding) -> None:
    """Decide, batch, report."""
    # the bank's file has it half a minute before midnight, with its label; the night meets both
    worker.now = micros(DAY) + 30 * SECOND
    await ask(world, worker, "predict", "default", payment("last-of-the-day", timestamp=f"{BEFORE}T23:59:30Z"))
    await asyncio.to_thread(drain, world.settings, 30)
    await asyncio.to_thread(world.run, "night before", "history", BEFORE, BEFORE)
    load(world.settings, BEFORE, micros(DAY, 2))
    worker.now = micros(DAY, 3)
    for body in odd_payments():
        for caller in CALLERS:
            worker.now += 7
            await ask(world, worker, "predict", caller, body)
    for changes in REFUSED:
        await ask(world, worker, "refused", "default", payment("refused", **changes))
    bodies = [payment(f"flood-{n}", user_id="flood", merchant_id="flooded") for n in range(1_000)]
    for first in range(0, len(bodies), 100):
        worker.now += SECOND
        batch = b'{"payments": [' + b",".join([*bodies[first : first + 99], bodies[0]]) + b"]}"
        await ask(world, worker, "batch", "another", batch)
    worker.now = micros(DAY, 5)
    for number, body in enumerate(odd_payments()):
        worker.now += 11
        at = worker.now + (-23 * HOUR, 0, 299 * SECOND)[number % 3]
        if number % 2:
            await ask(world, worker, "report", "reporter", report(number, body, at))
        else:
            await ask(world, worker, "gateway", "", report(number, body, at, caller="gateway's"))
    # a client whose ids do not change
    for name in ("first", "second", "third"):
        await ask(world, worker, "report", "reporter", report(7_001, payment(name), worker.now))
    own = payment("amount-3", user_id="amounts", amount="0.01")
    await ask(world, worker, "report", "default", report(7_000, own, worker.now))
    worker.now = micros(DAY, 23.9999)
    await ask(world, worker, "predict", "default", payment("nearly-midnight", timestamp=told(worker.now)))


def label(name: str, state: str = "confirmed", **fields: Any) -> bytes:
    return json.dumps({"transaction_id": name, "state": state, **fields}).encode()


async def odd_labels(world: World, worker: Deciding) -> None:
    """A day with one payment, whose amount is unknown, one with one of the largest amount, and labels of every kind."""
    worker.now = micros(QUIET, 12)
    await ask(world, worker, "predict", "default", payment("alone", currency="KWD", timestamp=told(worker.now)))
    for at in (micros(QUIET, 13), micros(LABELLED, 1)):
        worker.now = at
        for state in ("confirmed", "cleared", "disputed", "suspected") * 3:
            await ask(world, worker, "feedback", "default", label("alone", state))
        for revision in (*range(1, 40), 1_000_000, 3):
            await ask(world, worker, "feedback", "default", label("time-0", revision=revision, source="chargeback"))
        for n, text in enumerate(TEXTS):
            await ask(world, worker, "feedback", CALLERS[n % 3], label(text))
            await ask(world, worker, "feedback", "nobody", label(text, transaction_date=str(QUIET)))
        for days in (-1, 0, 1, 729, 730, 731):
            date_given = str(at_day(at) - timedelta(days=days))
            await ask(world, worker, "feedback", "default", label(f"unknown-{days}", transaction_date=date_given))
            await ask(world, worker, "feedback", "default", label("time-1", "cleared", transaction_date=date_given))
        for n in range(0, 1_000, 10):
            await ask(world, worker, "feedback", "another", label(f"flood-{n}", source="customer"))
        await ask(world, worker, "feedback", "default", label("time-2", comment="c" * 280))
        await ask(world, worker, "feedback", "default", label("time-2", source="import", revision=0))
    most = payment("most", currency="USD", amount=in_units(largest("USD"), "USD"), timestamp=told(worker.now))
    await ask(world, worker, "predict", "default", most)


def at_day(at: int) -> date:
    return datetime.fromtimestamp(at // SECOND, UTC).date()


def bank(folder: Path) -> Path:
    """A mapped history of three days; returns its mapping."""
    rows = ["id,user,shop,amount,at,country,fraud"]
    for day in days_between(FIRST_DAY, BEFORE):
        rows += [f"{day}-{n},u-{n % 4},m-{n % 3},{n}.25,{day}T{n:02d}:10:00Z,DE,{n % 7 // 6}" for n in range(24)]
    rows.append(f"last-of-the-day,u-1,m-1,12.50,{BEFORE}T23:59:30Z,DE,1")
    (folder / "history.csv").write_text("\n".join(rows) + "\n")
    rates = [f"{day},{code},{rate}" for code, both in RATES.items() 
             for day, rate in zip((FIRST_DAY, LABELLED), both, strict=True)]  # fmt: skip
    (folder / "rates.csv").write_text("\n".join(["date,currency,rate", *rates]) + "\n")
    mapping = folder / "mapping.yaml"
    mapping.write_text(MAPPING.format(folder=folder))
    return mapping


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, redis_server: str) -> Iterator[World]:
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    home = tmp_path_factory.mktemp("odd")
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        values = {
            "home": home, "redis_url": redis_server, "mapping": bank(home), "history_goes_on": True,
            "label_maturity_days": 5, "clock_file": home / "clock",
        }  # fmt: skip
        for name, value in values.items():
            patch.setenv(f"FRAUD_{name.upper()}", str(value))
        settings = Settings()
        now = micros(LAST_DAY + timedelta(days=1), 1)
        move_clock(home / "clock", now)
        defs = build_definitions(settings, datetime.fromtimestamp(now // SECOND, UTC))
        made = World(settings, open_lake(settings), defs, instance)
        made.run("history", "history", FIRST_DAY, BEFORE)
        asyncio.run(odd_days(made))
        made.run("decisions", "decisions", DAY, LABELLED)
        made.run("nights", "nightly", DAY, LAST_DAY)
        made.run("watching", "watching", DAY, LAST_DAY)
        made.run("outcomes", "outcomes", DAY, LABELLED)
        yield made


async def odd_days(world: World) -> None:
    async with deciding(world.settings, DAY) as worker:
        await odd_day(world, worker)
        await odd_labels(world, worker)
    assert worker.meter.failures == []


@pytest.mark.parametrize("name", ["history", "night before", "decisions", "nights", "watching", "outcomes"])
def test_every_night_ends_and_every_blocking_check_passes(world: World, name: str) -> None:
    run = world.runs[name]
    blocking = [each for each in run.get_asset_check_evaluations() if each.severity == dg.AssetCheckSeverity.ERROR]
    failed = {
        f"{each.asset_key.to_user_string()}.{each.check_name}": {
            name: value.value for name, value in each.metadata.items()
        }
        for each in blocking
        if not each.passed
    }
    errors = [e.event_specific_data.error_display_string for e in run.all_events if e.is_step_failure]  # type: ignore[union-attr]
    assert (failed, errors, run.success) == ({}, [], True)
    assert {each.check_name for each in blocking} >= {"schema", "nulls", "duplicates"}


def test_every_blocking_check_was_run(world: World) -> None:
    """But for the gate, which judges a model, and the cold store's, which is loaded from the same snapshots."""
    graph = world.defs.get_repository_def().asset_graph
    specified = {key for key in graph.asset_check_keys if graph.get_check_spec(key).blocking}
    run = {each.asset_check_key for run in world.runs.values() for each in run.get_asset_check_evaluations()}
    left = {key.name for key in specified - run}
    assert left == {"gate", "cold_served_as_computed"}


def test_nothing_failed_while_it_was_asked(world: World) -> None:
    taken, refused = {200}, {400, 422}
    allowed = {
        "predict": taken, "batch": taken, "refused": refused, "report": {200, 409, 422}, "gateway": {200, 409},
        "feedback": {202, 404, 422, 429},
    }  # fmt: skip
    assert world.statuses.keys() == allowed.keys()
    for what, statuses in world.statuses.items():
        assert set(statuses) <= allowed[what], what
    assert world.statuses["refused"].total() == len(REFUSED)
    assert world.statuses["report"][422] == 2, "one id is of one payment"
    assert world.statuses["feedback"][202] > 300


def test_what_was_taken_is_counted_and_what_was_set_aside_is_shown(world: World) -> None:
    night = world.runs["nights"]
    checks = {(each.asset_key.to_user_string(), each.check_name): each for each in night.get_asset_check_evaluations()}
    shown = {
        event.partition: {name: value.value for name, value in event.metadata.items()}
        for event in night.asset_materializations_for_node("raw_transactions")
        if event.partition
    }
    decided = {day: len(list(LogTable(world.lake).records(day))) for day in (DAY, QUIET, LABELLED)}
    assert decided[DAY] > 1_400
    for day, count in decided.items():
        assert shown[day.isoformat()]["decided"] == count
        rows = world.lake.read(tables.RAW_TRANSACTIONS, day, ["decision_id"])
        assert len(rows) - rows["decision_id"].null_count == count
    quarantine = checks["raw_transactions", "quarantine"].metadata
    assert quarantine["rows"].value == 0, "what the API takes is a transaction"
    assert shown[DAY.isoformat()]["amounts_unknown"] > 30
    assert shown[QUIET.isoformat()]["amounts_unknown"] == decided[QUIET] == 1
    orphans = checks["fraud_labels", "orphans"]
    assert not orphans.passed
    assert orphans.metadata["waiting_by_caller"].value["nobody"] > 10
    (skew,) = [each for each in world.runs["watching"].get_asset_check_evaluations() if each.check_name == "no_skew"]
    assert skew.metadata["decisions_compared"].value > 1_000


def test_labels_count_for_their_payments(world: World) -> None:
    known = labels_before(world.lake, LAST_DAY, LabelRules())
    state = {
        (row["caller"], row["transaction_id"], row["transaction_date"]): row["is_fraud"] for row in known.to_pylist()
    }
    assert state["default", "last-of-the-day", DAY] is True, "the file's label, on the day of the decision"
    assert state["default", "alone", QUIET] is None, "the last of many that contradict each other is a suspicion"
    assert state["another", "flood-0", DAY] is True
