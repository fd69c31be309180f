"""The promotion rule, one case per sentence of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraud_platform.model.gate import (
    CHANCE,
    NoVerdictError,
    Verdict,
    judge,
    passed_verdict,
    read_verdict,
    write_verdict,
)
from fraud_platform.model.kinds import REGRESSION, XGBOOST
from fraud_platform.model.ledger import Change, append_change, in_force, read_ledger
from fraud_platform.model.ranking import Comparison, Interval, Ranking

WORSE, UNCLEAR, BETTER = Interval(-0.1, -0.2, -0.05), Interval(0.02, -0.01, 0.05), Interval(0.1, 0.05, 0.2)


NO_BETTER_THAN_CHANCE, BETTER_THAN_CHANCE = Interval(0.6, 0.49, 0.7), Interval(0.6, 0.51, 0.7)
CHAMPION = "fraud-detector-3"


def comparison(gain: Interval, auc: Interval = BETTER_THAN_CHANCE) -> Comparison:
    ranking = Ranking(auc, Interval(0.5, 0.4, 0.6))
    return Comparison(ranking, ranking, gain)


def judged(between: Comparison, against_rival: Comparison | None = None, frauds: int = 100) -> Verdict:
    return judge(
        frauds=frauds,
        min_frauds=100,
        kinds=(REGRESSION, XGBOOST),
        between=between,
        rival=CHANCE if against_rival is None else CHAMPION,
        against_rival=against_rival,
    )


@pytest.mark.parametrize(("gain", "said"), [(UNCLEAR, "not surely better"), (BETTER, "taken, which is surely better")])
def test_a_first_model_need_not_surely_beat_the_other_kind_and_the_verdict_says_how_they_compare(
    gain: Interval, said: str
) -> None:
    verdict = judged(comparison(gain))
    assert (verdict.promote, verdict.rival) == (True, CHANCE)
    assert said in verdict.reasons[0]
    assert verdict.reasons[0].startswith("logistic regression is taken")
    assert "XGBoost" in verdict.reasons[0]


@pytest.mark.parametrize("against_champion", [None, comparison(BETTER)])
def test_no_model_is_promoted_that_chance_may_equal(against_champion: Comparison | None) -> None:
    verdict = judged(comparison(BETTER, NO_BETTER_THAN_CHANCE), against_champion)
    assert not verdict.promote
    assert "does not surely beat chance: AUC ROC 0.6000 (95% interval 0.4900 to 0.7000)" in verdict.reasons[1]


@pytest.mark.parametrize("against_champion", [WORSE, UNCLEAR, BETTER])
def test_a_later_model_must_surely_beat_the_champion(against_champion: Interval) -> None:
    verdict = judged(comparison(UNCLEAR), comparison(against_champion))
    assert verdict.promote == (against_champion is BETTER)
    assert len(verdict.reasons) == 3
    assert CHAMPION in verdict.reasons[2]


@pytest.mark.parametrize("against_rival", [None, comparison(BETTER)])
def test_with_too_few_frauds_nothing_is_promoted_not_even_a_first_model(against_rival: Comparison | None) -> None:
    verdict = judged(comparison(BETTER), against_rival, frauds=99)
    assert not verdict.promote
    assert "99 frauds" in verdict.reasons[0]
    assert "FRAUD_MIN_HOLDOUT_FRAUDS" in verdict.reasons[0]


def test_only_a_passed_verdict_against_what_is_in_force_lets_a_candidate_through(tmp_path: Path) -> None:
    with pytest.raises(NoVerdictError, match="has not been judged"):
        passed_verdict(tmp_path, CHANCE)
    passed = judged(comparison(BETTER))
    write_verdict(tmp_path, passed)
    assert passed_verdict(tmp_path, CHANCE) == read_verdict(tmp_path) == passed
    with pytest.raises(NoVerdictError, match="fraud-detector-3 is in force"):
        passed_verdict(tmp_path, CHAMPION)
    write_verdict(tmp_path, judged(comparison(BETTER, NO_BETTER_THAN_CHANCE)))
    with pytest.raises(NoVerdictError, match="did not pass"):
        passed_verdict(tmp_path, CHANCE)


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
