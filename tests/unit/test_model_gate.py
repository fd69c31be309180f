"""The promotion rule, one case per sentence of it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraud_platform.model.gate import decide_promotion
from fraud_platform.model.ledger import Change, append_change, read_ledger
from fraud_platform.model.ranking import Comparison, Interval, Ranking

WORSE, UNCLEAR, BETTER = Interval(-0.1, -0.2, -0.05), Interval(0.02, -0.01, 0.05), Interval(0.1, 0.05, 0.2)


def comparison(gain: Interval) -> Comparison:
    ranking = Ranking(Interval(0.9, 0.85, 0.95), Interval(0.5, 0.4, 0.6))
    return Comparison(ranking, ranking, gain)


@pytest.mark.parametrize(("gain", "promote"), [(WORSE, False), (UNCLEAR, False), (BETTER, True)])
def test_a_first_model_must_beat_the_baseline_beyond_its_interval(gain: Interval, promote: bool) -> None:
    verdict = decide_promotion(100, comparison(gain), None)
    assert verdict.promote == promote
    assert "logistic regression" in verdict.reasons[0]


@pytest.mark.parametrize(("gain", "promote"), [(WORSE, False), (UNCLEAR, False), (BETTER, True)])
def test_a_later_model_must_beat_the_champion_whatever_it_does_to_the_baseline(gain: Interval, promote: bool) -> None:
    for against_baseline in (WORSE, BETTER):
        verdict = decide_promotion(100, comparison(against_baseline), comparison(gain))
        assert verdict.promote == promote
        assert "the champion" in verdict.reasons[0]


def test_with_fewer_than_a_hundred_frauds_a_champion_stays() -> None:
    verdict = decide_promotion(99, comparison(BETTER), comparison(BETTER))
    assert not verdict.promote
    assert "99 frauds" in verdict.reasons[0]


def test_with_fewer_than_a_hundred_frauds_a_first_model_is_released_with_a_warning() -> None:
    verdict = decide_promotion(99, comparison(WORSE), None)
    assert verdict.promote
    assert verdict.reasons[0].startswith("WARNING")


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
