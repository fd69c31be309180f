"""Capacity against sums done by hand, and what the command says of wrong input."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from fraud_platform.capacity.figures import Figures, FiguresError, Footprint, Serving, Width, read_figures
from fraud_platform.capacity.plan import Load, need, plan
from fraud_platform.capacity.prices import SHIPPED, Prices, PricesError, read_prices
from fraud_platform.capacity.reference import reference
from fraud_platform.capacity.width import wide
from fraud_platform.cli import app

FIGURES = Figures(
    Serving(reference_cpu_us_per_request=2_000),
    Footprint(
        redis_user_bytes=400,
        redis_merchant_bytes=300,
        redis_velocity_bytes=240,
        redis_identity_bytes=480,
        redis_decision_bytes=1_000,
        postgres_user_bytes=1_000,
        spool_record_bytes=500,
        log_record_bytes=300,
        transaction_bytes=200,
        snapshot_user_bytes=100,
    ),
    Width(work_us=500, work_variation=1, alone_mean_ms=1, alone_p99_ms=1, redis_us=50, gateway_us=80),
    {},
)
LOAD = Load(peak_tps=1_000, users=100e6, merchants=1e6, features=50, daily=2.4e6, retention_days=10)


@pytest.fixture(scope="module")
def prices() -> Prices:
    return read_prices()


def test_need_is_what_a_sheet_of_paper_says(prices: Prices) -> None:
    found = need(LOAD, FIGURES, prices)
    # 100,000 an hour: 73 × 240 + 25 × 480 + 24 × 1,000 = 53,520 bytes for each, twice;
    # 100,000 records of 500 in the stream
    assert found.redis_bytes == pytest.approx(40e9 + 0.3e9 + 2 * 100_000 * 53_520 + 50e6)
    assert found.postgres_bytes == pytest.approx(100e9)
    # a day of decisions, twice
    assert found.spool_bytes == pytest.approx(2.4e9)
    # ten days of 2.4 million × 500; of users × 100, nine of all and one of who paid
    assert found.lake_bytes == pytest.approx(10 * 1.2e9 + (9 * 100e6 + 2.4e6) * 100)


def test_a_plan_buys_whole_machines_and_adds_them_up(prices: Prices) -> None:
    found = plan(LOAD, FIGURES, prices)
    # 51.054 GB are 47.55 GiB; 13.07 of each can be used
    assert (found.service_instances, found.redis_nodes) == (2, 4)
    by_hand = {
        "decision service": 2 * 0.096 * 730,
        "Redis": 4 * 0.206 * 730,
        "PostgreSQL": 0.072 * 730,
        "PostgreSQL's disk": 100 * 0.115,
        "spool's disk": 2.4 * 0.08,
        "lake (S3)": 102.24 * 0.023,
        "Dagster, MLflow, nightly run": 0.096 * 730,
    }
    assert {line.what: line.usd_per_month for line in found.lines} == pytest.approx(by_hand)
    assert found.usd_per_month == pytest.approx(sum(by_hand.values()))
    assert found.usd_per_million == pytest.approx(sum(by_hand.values()) / (2.4 * 30.4))


def test_headroom_and_replicas_are_bought(prices: Prices) -> None:
    more = prices.model_copy(update={"rules": prices.rules.model_copy(update={"headroom": 10, "redis_replicas": 1})})
    found = plan(LOAD, FIGURES, more)
    # 6 workers on machines of 2; 93.87 GB of rows and attempts are 87.4 GiB, 7 primaries
    assert (found.service_instances, found.redis_nodes) == (3, 14)


def test_workers_are_bought_until_p99_is_met_and_redis_as_its_core_wants() -> None:
    # M/M/1 of 2,000/s: P99 of the wait is ln(100 ρ) / (n·2,000 − 2,000) seconds
    found = wide(1_000, FIGURES.width, headroom=2, p99_ms=20)
    assert (found.workers, found.gateway_cores, found.redis_shards, found.cores) == (2, 1, 1, 4)
    assert found.busy == pytest.approx(0.25)
    # at the peak, 500/s a worker: 1 ms alone, the wait beside it
    assert found.p99_ms == pytest.approx(1 + 1e3 * math.log(25) / 1_500)
    # 2 × 100,000/s × 50 µs and 80 µs
    large = wide(100_000, FIGURES.width, headroom=2, p99_ms=20)
    assert (large.redis_shards, large.gateway_cores, large.machines(2)) == (10, 16, -(-large.workers // 2))
    assert wide(1_000, msgspec.structs.replace(FIGURES.width, gateway_us=None), headroom=2, p99_ms=20).cores == 3
    with pytest.raises(ValueError, match="alone"):
        wide(1_000, FIGURES.width, headroom=2, p99_ms=1)


def test_redis_machines_are_those_of_its_core_where_these_are_more(prices: Prices) -> None:
    busy = replace(FIGURES, width=msgspec.structs.replace(FIGURES.width, redis_us=4_500))
    assert plan(LOAD, busy, prices).redis_nodes == 9


def test_a_feature_above_fifty_takes_four_bytes_of_each_user(prices: Prices) -> None:
    one_more = replace(LOAD, features=51)
    assert need(one_more, FIGURES, prices).redis_bytes - need(LOAD, FIGURES, prices).redis_bytes == pytest.approx(4e8)
    fewer = replace(LOAD, features=10)
    assert need(fewer, FIGURES, prices) == need(LOAD, FIGURES, prices)


def test_the_reference_s_redis_cannot_hold_and_everything_else_does(prices: Prices) -> None:
    found = reference(FIGURES, prices)
    assert [row.what for row in found.rows if not row.holds] == ["Redis, 40 GB"]
    # 37.3 GiB ÷ 13.07
    assert "3 machines" in found.rows[1].why
    assert found.usd_per_month == pytest.approx(730 * (2 * 0.096 + 0.206 + 0.072) + 45 * 0.023)
    slow = replace(FIGURES, serving=Serving(reference_cpu_us_per_request=25_000))
    assert not reference(slow, prices).rows[0].holds


def test_figures_of_this_machine_come_before_the_shipped_ones(tmp_path: Path) -> None:
    shipped = read_figures(tmp_path)
    assert all("NOT this machine's" in source for source in shipped.sources.values())
    (tmp_path / "serving.json").write_text(json.dumps({"reference_cpu_us_per_request": 1.5, "p99_ms_at_1000": 7}))
    mine = read_figures(tmp_path)
    assert (mine.serving, mine.footprint) == (Serving(reference_cpu_us_per_request=1.5), shipped.footprint)
    assert "measured on this machine" in mine.sources["serving.json"]
    (tmp_path / "serving.json").write_text('{"reference_cpu_us_per_request": "fast"}')
    with pytest.raises(FiguresError, match=r"serving\.json.*reference_cpu_us_per_request.*make bench-serving"):
        read_figures(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [("usd_per_hour: 0.206", r"redis\.usd_per_hour"), ("s3_usd_per_gb_month: 0.023", "s3_usd_per_gb_month")],
)
def test_a_price_that_is_no_price_is_named(tmp_path: Path, change: str, told: str) -> None:
    text = SHIPPED.read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(change, f"{change.split(':')[0]}: free"))
    with pytest.raises(PricesError, match=told):
        read_prices(path)


def said(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["capacity", *arguments], env={"COLUMNS": "220", "NO_COLOR": "1"})
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_shows_figures_plan_and_the_reference_s_flagged_row(tmp_path: Path) -> None:
    load = ["--peak-tps", "1000", "--users", "100e6", "--features", "50", "--retention-days", "90"]
    text = said(*load, "--bench", str(tmp_path))
    for part in (
        "Width: P99 within 20 ms",
        "100,000",
        "10,000,000 a day",
        "USD per million",
        "CANNOT HOLD",
        "redis_user_bytes",
        "NOT this machine's",
    ):
        assert part in text, part
    plain: dict[str, Any] = json.loads(said(*load, "--bench", str(tmp_path), "--json"))
    assert plain["usd_per_month"] == pytest.approx(sum(line["usd_per_month"] for line in plain["lines"]))
    assert plain["prices"]["redis"]["name"] == "r6g.large"
    assert plain["reference"]["says_usd"] == 323


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--peak-tps", "many", "--users", "1"], 2, "--peak-tps"),
        (["--peak-tps", "1", "--users", "-5"], 2, "--users"),
        (["--peak-tps", "1", "--users", "1", "--daily", "1e6"], 1, "--daily"),
        (["--users", "1"], 2, "--peak-tps"),
    ],
)
def test_an_error_names_the_option(arguments: list[str], code: int, told: str) -> None:
    assert told in said(*arguments, code=code)


def test_a_wrong_price_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("service: 1\n")
    assert "--prices" in said("--peak-tps", "1", "--users", "1", "--prices", str(path), code=1)
