"""Backtests on traffic whose every payment is known: counts by hand, labels as of the cut, rules that are refused."""

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import binomtest
from typer.testing import CliRunner

from fraud_platform import schema
from fraud_platform.backtest.report import draw, figure_rows, notes
from fraud_platform.backtest.rule import Rule, RuleError
from fraud_platform.backtest.run import Backtest, NoTrafficError, backtest
from fraud_platform.backtest.traffic import Traffic, payments_schema
from fraud_platform.backtest.what import (
    NoSuchModelError,
    What,
    by_fallback_rules,
    by_model,
    by_rule,
    by_threshold,
    in_force,
)
from fraud_platform.cli import app
from fraud_platform.features import tables
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.record import vector_bytes
from fraud_platform.lake import Lake, open_lake
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model
from tests.monitoring_kit import decided, log_decisions, write_training_day

FIRST = date(2026, 3, 1)
MATURITY = 3
NOW = datetime(2026, 3, 9, 12, tzinfo=UTC)
"""Labels are there up to the 8th, so the cut is the 9th: the days up to the 5th are matured."""
COUNT = 10
AMOUNT, AVERAGE = CATALOGUE.names.index("amount"), CATALOGUE.names.index("user_amount_avg_30d")

PAYMENTS = payments_schema(CATALOGUE)


@dataclass
class World:
    settings: Settings
    lake: Lake
    vectors: dict[date, np.ndarray]

    def run(self, what: What, first: date | None = None, last: date | None = None) -> Backtest:
        traffic = Traffic(self.lake, "EUR", in_force(self.settings.home))
        return backtest(self.settings, traffic, what, first, last, NOW)


def day(n: int) -> date:
    return FIRST + timedelta(days=n)


def write_labels(lake: Lake, rows: list[tuple[str, date, datetime, str]]) -> None:
    """One partition a day from the 1st to the 8th; (transaction, its day, arrival, state)."""
    for n in range(8):
        arrived = [row for row in rows if row[2].date() == day(n)]
        plain: dict[str, list[Any]] = {
            "transaction_id": [row[0] for row in arrived],
            "caller": ["default"] * len(arrived),
            "transaction_date": [row[1] for row in arrived],
            "arrived_at": [row[2] for row in arrived],
            "source": ["chargeback"] * len(arrived),
            "revision": [1] * len(arrived),
            "state": [row[3] for row in arrived],
        }
        lake.write(
            tables.FRAUD_LABELS,
            day(n),
            pa.table([pa.array(plain[f.name], f.type) for f in schema.LABELS], schema.LABELS),
        )


@pytest.fixture
def world(settings: Settings) -> World:
    """Eight days of ten payments: number n of a day pays (n + 1) × 100 EUR, even ones abroad; 8 and 9 are fraud."""
    settings = settings.model_copy(update={"label_maturity_days": MATURITY})
    publish_small_model(settings.home, version=1, seed=1)
    lake, random = open_lake(settings), np.random.default_rng(2)
    made, labels = {}, []
    for n in range(8):
        vectors = random.normal(20, 20, (COUNT, 50)).astype(np.float32)
        amounts = [(i + 1) * 10_000 for i in range(COUNT)]
        vectors[:, AMOUNT] = amounts
        vectors[:, AVERAGE] = 25_000
        write_training_day(
            lake,
            day(n),
            vectors,
            amount_minor=amounts,
            user_country=["FR" if i % 2 == 0 else "DE" for i in range(COUNT)],
        )
        made[day(n)] = vectors
        for i in (8, 9):
            arrived = datetime.combine(day(n), time(20), UTC) + timedelta(days=1)
            if arrived.date() <= day(7):
                labels.append((f"{day(n)}-{i}", day(n), arrived, "confirmed"))
    # a case that is open, and a payment that was cleared
    labels += [(f"{day(0)}-7", day(0), datetime.combine(day(2), time(1), UTC), "suspected")]
    labels += [(f"{day(0)}-6", day(0), datetime.combine(day(2), time(1), UTC), "cleared")]
    write_labels(lake, labels)
    return World(settings, lake, made)


def test_a_rule_is_counted_as_by_hand(world: World) -> None:
    found = world.run(by_rule("amount > 600 and country != user_country", world.settings))
    # abroad are 0, 2, 4, 6, 8; above 600 EUR 6 (700) and 8 (900): two hits a day, on 8 days
    assert (found.payments, found.this.hits, found.this.users, found.this.amount) == (80, 16, 2, 8 * 1_600.0)
    # judged are 5 days of 10 and the midnight payment of the 6th, exactly as old as it must be, less the open case;
    # 8 is fraud on each day, 6 is good
    assert found.cut == date(2026, 3, 9)
    assert (found.immature, found.open_cases, found.frauds, found.fraud_amount) == (29, 1, 10, 5 * 1_900.0)
    judged = found.this.judged
    assert judged is not None
    assert (judged.caught, judged.wrongly) == (5, 5)
    assert (judged.money.caught.value, judged.money.wrongly.value) == (4_500.0, 3_500.0)
    # missed: 5 × (1000 + 15); blocked good: 5 × 10; looked at: 10 × 2
    assert judged.money.loss_per_thousand.value == pytest.approx((5 * 1_015 + 5 * 10 + 10 * 2) / 50 * 1_000)
    for share, hits, of in ((judged.precision, 5, 10), (judged.recall, 5, 10), (judged.false_positive_rate, 5, 40)):
        wilson = binomtest(hits, of).proportion_ci(0.95, "wilson")
        assert share is not None
        assert (share.value, share.low, share.high) == pytest.approx((hits / of, wilson.low, wilson.high))
    assert [(line.hits, line.matured, line.frauds, line.caught, line.wrongly) for line in found.days] == [
        (2, 9, 2, 1, 1), *[(2, 10, 2, 1, 1)] * 4, (2, 1, 0, 0, 0), *[(2, 0, 0, 0, 0)] * 2
    ]  # fmt: skip


def test_labels_that_arrived_after_the_cut_are_not_known(world: World) -> None:
    early = datetime(2026, 3, 5, 12, tzinfo=UTC)
    traffic = Traffic(world.lake, "EUR", None)
    found = backtest(world.settings, traffic, by_rule("amount >= 900", world.settings), None, None, early)
    # the cut is the 5th: the 1st is matured, and the midnight payment of the 2nd; the labels of the 2nd to the 4th that
    # have arrived early are not used, for the good payments beside them are not known yet
    assert (found.cut, found.frauds, found.immature) == (date(2026, 3, 5), 2, 80 - 11)
    assert found.this.judged is not None
    assert (found.this.hits, found.this.judged.caught, found.this.judged.wrongly) == (16, 2, 0)


def test_what_ran_on_history_is_the_release_in_force_and_overlap_adds_up(world: World) -> None:
    release = in_force(world.settings.home)
    assert release is not None
    from fraud_platform.model.bundle import Bundle, Scorer

    scorer = Scorer(Bundle.load(world.settings.home / "releases/fraud-detector-1"))
    scores = np.concatenate([scorer.score(world.vectors[day(n)]) for n in range(8)])
    found = world.run(by_threshold(0.8, release))
    assert found.ran_by == "fraud-detector/1"
    assert found.ran.hits == int((scores > 0.6).sum())
    assert found.this.hits == int((scores > 0.8).sum())
    both, only, other = found.overlap
    assert (both.payments + only.payments, both.payments + other.payments) == (found.this.hits, found.ran.hits)
    assert (both.payments, only.payments) == (found.this.hits, 0)
    assert world.run(by_model(world.settings.home, 1, 0.8)).this == found.this
    own = world.run(by_model(world.settings.home, 1, None))
    assert own.this == own.ran


def test_decisions_of_the_log_count_as_they_were_made_and_once(world: World) -> None:
    vectors = world.vectors[day(1)].copy()
    scores = np.linspace(0.05, 0.95, COUNT)
    records = decided(day(1), vectors, scores)
    records[0] = msgspec.structs.replace(records[0], score=None, vector=vector_bytes(np.full(50, np.nan, np.float32)))
    log_decisions(world.lake, records)
    found = world.run(by_threshold(0.5, None), day(1), day(1))
    assert (found.payments, found.decided) == (10, 10)
    assert found.this.hits == int((scores > 0.5).sum())
    assert found.ran.hits == int((scores > 0.7).sum())
    assert found.undecided == 1
    # no vector, no answer of a model; and a rule about a feature cannot tell
    assert world.run(by_model(world.settings.home, 1, 0.0), day(1), day(1)).this.hits == 9
    rule = world.run(by_rule("user_amount_avg_30d > 0", world.settings), day(1), day(1))
    assert (rule.this.hits, rule.undecided) == (9, 1)


def test_all_money_is_in_units_of_the_base_currency(world: World) -> None:
    found = world.run(by_rule("amount > 2 * user_amount_avg_30d and user_amount_avg_30d = 250", world.settings))
    assert found.this.hits == 8 * 5


def test_fallback_rules_flag_by_the_limits_of_the_settings(world: World) -> None:
    limits = world.settings.model_copy(update={"rule_high_amount": 900, "rule_cross_country_amount": 450})
    found = world.run(by_fallback_rules(limits))
    # above 900: 9; abroad above 450: 4, 6, 8
    assert (found.hit_is, found.this.hits) == ("alert", 8 * 4)
    scores = [line.ran for line in found.days]
    assert sum(scores) == found.ran.hits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("amuont > 5", "there is no column amuont; there are transaction_id, user_id"),
        ('country = "DE"', "put text in single quotes"),
        ("traffic.amount > 5", "there is no column traffic.amount"),
        ("amount", "true or false"),
        ("amount > (", "cannot be read"),
        ("1 from read_csv('/etc/passwd')", "one expression"),
        ("true) from read_csv('/etc/passwd') --", "cannot be read"),
        ("amount > 5; drop table traffic", "cannot be read"),
        ("amount > 5, true", "one expression"),
        ("amount > 5 as hit", "one expression"),
        ("amount > 5 order by 1", "one expression"),
        ("amount > (select max(column0) from read_csv('/etc/passwd'))", "a subquery"),
        ("sum(amount) over () > 5", "a window"),
        ("count(*) > 5", "may not be used"),
        ("random() > 0.5", "random"),
        ("received_at > now()", "now"),
        ("received_at > current_localtimestamp()", "current_localtimestamp"),
        ("version() > channel", "version"),
        ("#1 > 5", "a column by number"),
        ("age(received_at) > interval 1 day", "age"),
        ("received_at > current_date", "there is no column current_date"),
        ("read_text('/etc/passwd') is null", "may not be used"),
        ("write_log('x') is null", "may not be used"),
        ("amount > ?", "a parameter"),
        ("nosuch(amount) > 1", "nosuch"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_refused_and_said(text: str, said: str) -> None:
    with pytest.raises(RuleError) as error:
        Rule(text, PAYMENTS, "1GB")
    assert said in str(error.value)


def test_a_rule_may_say_what_sql_says_of_one_row() -> None:
    rows = pa.table(
        [pa.array([None] * 3, f.type) if f.name not in ("amount", "channel", "received_at") else values[f.name]
         for values in [{
             "amount": pa.array([5.0, 50.0, None]), "channel": pa.array(["online", "pos", "atm"]),
             "received_at": pa.array([datetime(2026, 3, 1, hour) for hour in (1, 12, 23)], pa.timestamp("us")),
         }] for f in PAYMENTS],
        PAYMENTS,
    )  # fmt: skip
    for text, hits, undecided in (
        ("AMOUNT between 4 and 6 -- small", [True, False, False], [False, False, True]),
        ("channel in ('pos', 'atm') or hour(received_at) < 6", [True, True, True], [False, False, False]),
        ("coalesce(amount, 0) = 0", [False, False, True], [False, False, False]),
        ("nullif(amount, 5) > 1", [False, True, False], [True, False, True]),
        ("case when channel like 'o%' then abs(-amount) > 4 else false end", [True, False, False], [False] * 3),
    ):
        found = Rule(text, PAYMENTS, "1GB").hits(rows)
        assert [part.tolist() for part in found] == [hits, undecided], text


def test_a_rule_that_fails_on_a_value_says_so(world: World) -> None:
    with pytest.raises(RuleError, match="Could not convert string"):
        world.run(by_rule("cast(channel as int) = 3", world.settings))


def test_a_home_without_model_or_labels_says_what_is_missing(settings: Settings) -> None:
    lake = open_lake(settings)
    with pytest.raises(NoTrafficError, match="build the platform first"):
        backtest(settings, Traffic(lake, "EUR", None), by_rule("amount > 1", settings), None, None, NOW)
    with pytest.raises(NoSuchModelError, match="this home has none"):
        by_model(settings.home, 3, None)
    write_training_day(lake, FIRST, np.ones((4, 50), np.float32))
    found = backtest(settings, Traffic(lake, "EUR", None), by_rule("amount > 1", settings), None, None, NOW)
    assert (found.this.hits, found.ran.hits, found.this.judged, found.cut) == (4, 0, None, None)
    said = " ".join(notes(found))
    assert "No release is in force" in said
    assert "There are no labels" in said
    assert ["precision", "–", "–"] in figure_rows(found)
    with pytest.raises(NoTrafficError, match="there is some from 2026-03-01 to 2026-03-01"):
        backtest(settings, Traffic(lake, "EUR", None), by_rule("true", settings), date(2027, 1, 1), None, NOW)


def test_a_model_is_said_to_have_learned_from_what_it_is_tried_on(world: World) -> None:
    split = {"train": [day(0).isoformat(), day(1).isoformat()], "validation": [day(2).isoformat(), day(2).isoformat()]}
    publish_small_model(world.settings.home, version=2, seed=1, data={"split": split})
    found = world.run(by_model(world.settings.home, 2, None))
    assert (found.learned, found.ran_learned) == (30, 30)
    assert any("learned from 30 of" in note for note in notes(found))
    assert world.run(by_rule("true", world.settings), day(3)).ran_learned == 0


def test_the_command_prints_and_writes_the_same_figures(world: World, tmp_path: Path) -> None:
    json_file, plot = tmp_path / "out.json", tmp_path / "out.png"
    environment = {
        "FRAUD_HOME": str(world.settings.home), "FRAUD_LABEL_MATURITY_DAYS": str(MATURITY), "COLUMNS": "200",
        "FRAUD_HISTORY_START": FIRST.isoformat(),
    }  # fmt: skip

    def run(*options: str) -> Any:
        return CliRunner().invoke(app, ["backtest", *options], env=environment)

    done = run("--rule", "amount > 600", "--json", str(json_file), "--plot", str(plot), "--to", day(4).isoformat())
    assert done.exit_code == 0, done.output
    written = json.loads(json_file.read_text())
    assert written["this"]["hits"] == 5 * 4
    assert "20 (40.000%)" in done.output
    assert f"{written['this']['judged']['caught']:,} of {written['frauds']:,}" in done.output
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert len(plot.read_bytes()) < 60_000
    printed = run("--rule", "amount > 600", "--json", "-", "--to", day(4).isoformat())
    assert json.loads(printed.stdout) == written
    assert run().exit_code == 1
    assert "--rule, --threshold" in run("--rule", "true", "--threshold", "0.5").output
    assert run("--model", "9").exit_code == 1
    assert "there is no column amuont" in run("--rule", "amuont > 1").output


def test_the_same_backtest_draws_the_same_picture(world: World) -> None:
    found = world.run(by_rule("amount > 600", world.settings))
    assert draw(found) == draw(found)
