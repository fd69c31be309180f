"""The promotion rule, one case per sentence of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraud_platform.model.gate import (
    BASELINE,
    NoVerdictError,
    judge,
    passed_verdict,
    read_verdict,
    write_verdict,
)
from fraud_platform.model.ledger import Change, append_change, in_force, read_ledger
from fraud_platform.model.ranking import Comparison, Interval, Ranking

WORSE, UNCLEAR, BETTER = Interval(-0.1, -0.2, -0.05), Interval(0.02, -0.01, 0.05), Interval(0.1, 0.05, 0.2)


def comparison(gain: Interval) -> Comparison:
    ranking = Ranking(Interval(0.9, 0.85, 0.95), Interval(0.5, 0.4, 0.6))
    return Comparison(ranking, ranking, gain)


CHAMPION = "fraud-detector-3"


@pytest.mark.parametrize(("gain", "promote"), [(WORSE, False), (UNCLEAR, False), (BETTER, True)])
def test_a_first_model_must_beat_the_baseline_beyond_its_interval(gain: Interval, promote: bool) -> None:
    verdict = judge(frauds=100, min_frauds=100, against_baseline=comparison(gain))
    assert (verdict.promote, verdict.rival) == (promote, BASELINE)
    assert "logistic regression" in verdict.reasons[0]


@pytest.mark.parametrize("against_baseline", [WORSE, UNCLEAR, BETTER])
@pytest.mark.parametrize("against_champion", [WORSE, UNCLEAR, BETTER])
def test_a_later_model_must_beat_both(against_baseline: Interval, against_champion: Interval) -> None:
    verdict = judge(
        frauds=100,
        min_frauds=100,
        against_baseline=comparison(against_baseline),
        rival=CHAMPION,
        against_rival=comparison(against_champion),
    )
    assert verdict.promote == (against_baseline is BETTER and against_champion is BETTER)
    assert len(verdict.reasons) == 2
    assert CHAMPION in verdict.reasons[1]


@pytest.mark.parametrize("against_rival", [None, comparison(BETTER)])
def test_with_too_few_frauds_nothing_is_promoted_not_even_a_first_model(against_rival: Comparison | None) -> None:
    verdict = judge(frauds=99, min_frauds=100, against_baseline=comparison(BETTER), against_rival=against_rival)
    assert not verdict.promote
    assert "99 frauds" in verdict.reasons[0]
    assert "FRAUD_MIN_HOLDOUT_FRAUDS" in verdict.reasons[0]


def test_only_a_passed_verdict_against_what_is_in_force_lets_a_candidate_through(tmp_path: Path) -> None:
    with pytest.raises(NoVerdictError, match="was not judged"):
        passed_verdict(tmp_path, BASELINE)
    passed = judge(frauds=100, min_frauds=100, against_baseline=comparison(BETTER))
    write_verdict(tmp_path, passed)
    assert passed_verdict(tmp_path, BASELINE) == read_verdict(tmp_path) == passed
    with pytest.raises(NoVerdictError, match="fraud-detector-3 is in force"):
        passed_verdict(tmp_path, CHAMPION)
    write_verdict(tmp_path, judge(frauds=100, min_frauds=100, against_baseline=comparison(WORSE)))
    with pytest.raises(NoVerdictError, match="did not pass"):
        passed_verdict(tmp_path, BASELINE)


def change(to: str, hour: int = 1) -> Change:
    return Change(at=datetime(2026, 1, 1, hour, tzinfo=UTC), who="weekly", why="better", to=to)


def test_the_ledger_grows_by_one_line_per_change_and_none_per_repetition(tmp_path: Path) -> None:
    assert read_ledger(tmp_path) == []
    assert append_change(tmp_path, change("m-1"))
    before = (tmp_path / "releases" / "ledger.jsonl").read_bytes()
    assert not append_change(tmp_path, change("m-1", hour=2))
    assert append_change(tmp_path, change("m-2"))
    assert append_change(tmp_path, change("m-1", hour=3))
    assert (tmp_path / "releases" / "ledger.jsonl").read_bytes().startswith(before)
    assert [(entry["from"], entry["to"]) for entry in read_ledger(tmp_path)] == [
        (None, "m-1"),
        ("m-1", "m-2"),
        ("m-2", "m-1"),
    ]
    assert read_ledger(tmp_path)[2]["at"] == "2026-01-01T03:00:00+00:00"


def test_a_line_cut_off_by_a_crash_never_counted(tmp_path: Path) -> None:
    append_change(tmp_path, change("m-1"))
    with (tmp_path / "releases" / "ledger.jsonl").open("ab") as file:
        file.write(b'{"at": "2026-')
    assert [entry["to"] for entry in read_ledger(tmp_path)] == ["m-1"]
    append_change(tmp_path, change("m-2"))
    assert [(entry["from"], entry["to"]) for entry in read_ledger(tmp_path)] == [(None, "m-1"), ("m-1", "m-2")]


def test_the_ledger_says_what_was_in_force_when(tmp_path: Path) -> None:
    append_change(tmp_path, change("m-1", hour=1))
    append_change(tmp_path, change("m-2", hour=3))
    asked = {hour: in_force(tmp_path, datetime(2026, 1, 1, hour, tzinfo=UTC)) for hour in range(5)}
    assert asked == {0: None, 1: "m-1", 2: "m-1", 3: "m-2", 4: "m-2"}
