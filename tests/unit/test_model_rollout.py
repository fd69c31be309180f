"""Shadow, canary, champion: whose turn a payment is, what is measured, and which step follows."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraud_platform.decision.arms import CHALLENGER, Challenger, score_by_arm
from fraud_platform.decision.breaker import CircuitBreaker
from fraud_platform.decision.policy_change import PolicyChange, change_policy
from fraud_platform.decision.serving_model import load_model
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.features.label_rules import LabelRules
from fraud_platform.inference_log.record import Seen, ServedBy, decode_record, encode_record
from fraud_platform.lake import open_lake
from fraud_platform.model.arms import Evidence, Scores, gather, measure
from fraud_platform.model.ledger import arms_in_force, read_ledger
from fraud_platform.model.release import (
    Reason,
    ReleaseError,
    challenge,
    champion_before,
    ramp,
    return_to,
    roll_back,
    rolled_back,
)
from fraud_platform.model.rollout import look, next_step, take_step
from fraud_platform.model.routing import Routing, is_challengers, read_routing
from fraud_platform.model.sequential import mean_sequence
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model
from tests.monitoring_kit import decided, degraded, log_decisions, vectors, write_labels
from tests.record_kit import record

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
WHY = Reason(who="test", why="because")
OLD, NEW = "fraud-detector-1", "fraud-detector-2"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A champion in force and a second bundle beside it."""
    publish_small_model(tmp_path, version=1, seed=1)
    return tmp_path


@pytest.fixture
def second(home: Path) -> Path:
    """The folder of a bundle that could challenge."""
    aside = home / "aside"
    publish_small_model(aside, version=2, seed=2)
    return aside / "releases" / NEW


def test_users_keep_their_arm_and_a_larger_weight_only_adds_some() -> None:
    users = [f"user-{n}" for n in range(20_000)]
    tenth = {user for user in users if is_challengers(user, NEW, 0.1)}
    third = {user for user in users if is_challengers(user, NEW, 0.3)}
    assert tenth < third
    assert abs(len(tenth) / len(users) - 0.1) < 0.01
    other = {user for user in users if is_challengers(user, "fraud-detector-3", 0.1)}
    assert len(tenth & other) / len(tenth) < 0.15, "another challenger gets other users"
    assert not any(is_challengers(user, NEW, 0.0) for user in users)
    assert all(is_challengers(user, NEW, 1.0) for user in users)


def test_a_challengers_life_is_in_the_record_and_in_the_ledger(home: Path, second: Path) -> None:
    hours = [NOW + timedelta(hours=n) for n in range(5)]
    challenge(home, second, WHY, hours[0])
    assert read_routing(home).stage == "shadow"
    ramp(home, NEW, 0.1, WHY, hours[1])
    routing = read_routing(home)
    assert (routing.release, routing.challenger, routing.stage, routing.weight) == (OLD, NEW, "canary", 0.1)
    assert routing.began < routing.since == int(hours[1].timestamp() * 1e6)
    roll_back(home, NEW, Reason(who="sensor", why="it blocks too much", evidence={"payments": 7}), hours[2])
    assert read_routing(home) == Routing(release=OLD, since=int(hours[2].timestamp() * 1e6))
    lines = read_ledger(home)
    assert [(line["what"], line["to"]["stage"], line["to"]["weight"]) for line in lines] == [
        ("challenger", "shadow", 0.0), ("challenger", "canary", 0.1), ("challenger", "none", 0.0)
    ]  # fmt: skip
    assert (lines[-1]["who"], lines[-1]["evidence"]) == ("sensor", {"payments": 7})
    assert [arms_in_force(home, at - timedelta(minutes=1))["stage"] for at in hours[:4]] == [
        "none", "shadow", "canary", "none"
    ]  # fmt: skip


def test_who_was_rolled_back_does_not_return_by_itself(home: Path, second: Path) -> None:
    challenge(home, second, WHY, NOW)
    roll_back(home, NEW, WHY, NOW)
    assert rolled_back(home) == {NEW}
    with pytest.raises(ReleaseError, match="does not return by itself"):
        challenge(home, second, WHY, NOW)
    assert challenge(home, second, WHY, NOW, again=True).challenger == NEW
    for change in (lambda: ramp(home, "fraud-detector-9", 0.1, WHY, NOW), lambda: roll_back(home, "x", WHY, NOW)):
        with pytest.raises(ReleaseError, match="no longer the challenger"):
            change()
    with pytest.raises(ReleaseError, match=r"in \(0, 1\]"):
        ramp(home, NEW, 0.0, WHY, NOW)


def test_an_earlier_release_can_be_put_back(home: Path, second: Path) -> None:
    with pytest.raises(ReleaseError, match="no earlier release to return to"):
        champion_before(home)
    challenge(home, second, WHY, NOW)
    return_to(home, NEW, WHY, NOW)
    with pytest.raises(ReleaseError, match="already the champion"):
        return_to(home, NEW, WHY, NOW)
    return_to(home, OLD, WHY, NOW)
    assert read_routing(home).release == OLD
    assert champion_before(home) == NEW


class Broken:
    def margins(self, _: Any) -> np.ndarray:
        raise RuntimeError("no trees")


def test_both_score_and_a_challenger_that_fails_lets_the_champion_decide(home: Path, second: Path) -> None:
    from dataclasses import replace

    champion, rival = load_model(home / "releases" / OLD), load_model(second)
    vector = vectors(np.random.default_rng(1), 1)[0]
    breaker, failed = CircuitBreaker("champion", lambda: 0.0), []

    def score(challenger: Challenger | None, user: str = "u") -> Any:
        return score_by_arm(champion, challenger, user, vector, breaker, lambda stage, _: failed.append(stage))

    alone = score(None)
    assert (alone.model, alone.arm, alone.other_score) == (champion, "champion", None)
    shadow = score(Challenger(rival, 0.0))
    assert (shadow.score, shadow.served_by, shadow.other_version) == (alone.score, "champion", rival.version)
    canary = score(Challenger(rival, 1.0))
    assert (canary.score, canary.served_by, canary.arm) == (shadow.other_score, CHALLENGER, CHALLENGER)
    assert (canary.other_score, canary.other_version) == (alone.score, champion.version)
    broken = score(Challenger(replace(rival, compiled=Broken()), 1.0))
    assert (broken.score, broken.served_by, broken.arm, broken.other_score) == (
        alone.score, "champion", CHALLENGER, None
    )  # fmt: skip
    assert failed == [CHALLENGER]


def test_a_record_of_before_challengers_is_still_read() -> None:
    old = msgspec.msgpack.encode(msgspec.msgpack.decode(encode_record(record()))[:-4])
    assert decode_record(old) == record()
    assert (decode_record(old).arm, decode_record(old).other_score) == ("champion", None)


def test_a_sequence_holds_at_all_times_and_is_no_tighter_than_it_may_be() -> None:
    """Of 400 sequences of fair coins, watched at every tenth of 3,000 tosses, few ever exclude the truth."""
    random = np.random.default_rng(7)
    missed = 0
    for _ in range(400):
        tosses = (random.random(3_000) < 0.05).astype(float)
        missed += any(
            not found.low <= 0.05 <= found.high
            for found in (mean_sequence(tosses[:count], alpha=0.05) for count in range(100, 3_001, 100))
        )
    assert missed / 400 < 0.05
    narrow, wide = mean_sequence(tosses), mean_sequence(tosses[:300])
    assert narrow.high - narrow.low < wide.high - wide.low
    # nothing seen yet is not certain
    assert mean_sequence(np.zeros(100)).high > 0.05
    assert mean_sequence(np.zeros(0)).high == np.inf


def scores(count: int, **changes: Any) -> Scores:
    """Two models of the same skill: what one thinks of a payment the other nearly does too."""
    random = np.random.default_rng(3)
    fraud = random.random(count) < 0.02
    shared = np.where(fraud, random.beta(6, 2, count), random.beta(1, 20, count))
    champion, challenger = (np.clip(shared + random.normal(0, 0.02, count), 0, 1) for _ in range(2))
    plain: dict[str, Any] = {
        "champion": champion,
        "challenger": challenger,
        "amounts": random.lognormal(8, 1, count),
        "is_challengers": random.random(count) < 0.1,
        "latency_ms": random.gamma(4, 0.5, count),
        "is_fraud": np.where(np.arange(count) < count // 2, fraud, np.nan),
    }
    return Scores(**(plain | changes))


def step_of(given: Scores, settings: Settings, *, stage: Any = "shadow", weight: float = 0.0, hours: float = 30) -> Any:
    evidence = measure(given, 0.7, settings.canary_block_band)
    since = int((NOW - timedelta(hours=hours)).timestamp() * 1e6)
    routing = Routing(release=OLD, challenger=NEW, stage=stage, weight=weight, since=since, began=since)
    return next_step(routing, evidence, settings, int(NOW.timestamp() * 1e6))


def test_a_good_challenger_goes_from_stage_to_stage_once_its_time_has_come(settings: Settings) -> None:
    good = scores(20_000)
    assert step_of(good, settings, hours=23).action == "wait"
    assert "takes 24 h" in step_of(good, settings, hours=23).reasons[0]
    assert (step_of(good, settings).action, step_of(good, settings).weight) == ("ramp", 0.1)
    assert step_of(good, settings, stage="canary", weight=0.1).weight == 0.3
    assert step_of(good, settings, stage="canary", weight=0.3).action == "promote"


def test_too_few_payments_decide_nothing(settings: Settings) -> None:
    step = step_of(scores(1_500), settings)
    assert step.action == "wait"
    assert any("1,500 of 2,000" in reason for reason in step.reasons)


HARMS = {
    "blocks more than 2 times": lambda s: {"challenger": np.minimum(s.champion * 2 + 0.4, 1)},
    "blocks less than 1/2": lambda s: {"challenger": s.champion * 0.5},
    "scores are less than 1/2": lambda s: {"challenger": np.where(s.champion > 0.7, s.champion, s.champion * 0.1)},
    "fails on": lambda s: {"challenger": np.where(np.arange(len(s.champion)) % 20, s.challenger, np.nan)},
    "ms longer": lambda s: {"latency_ms": np.where(s.is_challengers, s.latency_ms + 20, s.latency_ms)},
    "scores are more than 2 times": lambda s: {
        "challenger": np.where(s.champion > 0.7, s.champion, s.champion * 0.3 + 0.3)
    },
    "fewer of the known frauds": lambda s: {
        "challenger": np.where((s.is_fraud == 1) & (np.arange(len(s.champion)) % 4 == 0), 0.1, s.challenger)
    },
    "times the champion's good payments": lambda s: {
        "challenger": np.where((s.is_fraud == 0) & (np.arange(len(s.champion)) % 40 == 0), 0.9, s.challenger)
    },
}


@pytest.mark.parametrize("harm", HARMS)
def test_each_harm_takes_the_challenger_out_at_once(settings: Settings, harm: str) -> None:
    good = scores(20_000)
    bad = Scores(**(vars(good) | HARMS[harm](good)))
    step = step_of(bad, settings, stage="canary", weight=0.1, hours=0.1)
    assert step.action == "roll_back", step
    assert any(harm in reason for reason in step.reasons), step.reasons


def test_large_payments_that_are_blocked_count_as_money(settings: Settings) -> None:
    good = scores(20_000)
    large = good.amounts > np.quantile(good.amounts, 0.995)
    step = step_of(Scores(**(vars(good) | {"challenger": np.where(large, 0.9, good.challenger)})), settings)
    assert any("champion's money" in reason for reason in step.reasons), step.reasons


def test_the_log_gives_both_scores_of_each_payment_whoever_decided(home: Path, second: Path) -> None:
    settings = Settings(home=home, label_maturity_days=0)
    lake = open_lake(settings)
    day = NOW.date() - timedelta(days=1)
    challenge(home, second, WHY, datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(seconds=100))
    made = vectors(np.random.default_rng(1), 400)
    random = np.random.default_rng(2)
    champion, challenger = random.random(400), random.random(400) * 0.62
    records = []
    for n, each in enumerate(decided(day, made, champion)):
        theirs = n % 4 == 0
        records.append(
            msgspec.structs.replace(
                each,
                score=float((challenger if theirs else champion)[n]),
                other_score=float((champion if theirs else challenger)[n]),
                model_version="fraud-detector/2" if theirs else "fraud-detector/1",
                other_version="fraud-detector/1" if theirs else "fraud-detector/2",
                arm="challenger" if theirs else "champion",
                latency_us=9_000 if theirs else 1_000,
                # a list decides some of them, which changes nothing about what the models said
                served_by=ServedBy(
                    user_features="redis", merchant_features="redis", model="list" if n % 10 == 0 else "champion"
                ),
                scored_by="challenger" if theirs else "champion",
            )
        )
    log_decisions(lake, records)
    write_labels(lake, day, [f"{day}-{n}" for n in range(100, 140)], day)
    evidence = gather(lake, read_routing(home), NOW, threshold=0.6, maturity_days=0, band=2.0, rules=LabelRules())
    # the first hundred came before the challenger
    assert evidence.payments == 300
    assert evidence.champion_blocks == (champion[100:] > 0.6).sum()
    assert evidence.challenger_blocks == (challenger[100:] > 0.6).sum()
    assert evidence.latency_ms.mean == pytest.approx(8)
    assert evidence.errors.mean == 0
    assert (evidence.frauds, evidence.good) == (40, 260)
    caught = (challenger[100:140] > 0.6).mean() - (champion[100:140] > 0.6).mean()
    assert evidence.catch_gain.mean == pytest.approx(caught)

    change_policy(settings, PolicyChange(why="test", threshold=0.65), "test", NOW)
    found = look(lake, settings, NOW)
    assert found is not None
    assert found[1].champion_blocks == (champion[100:] > 0.65).sum(), "by the policy, whatever the bundles say"
    routing, seen, step = found
    assert isinstance(seen, Evidence)
    assert step.action == "roll_back", "it blocks nothing, the champion a third"
    assert take_step(settings, routing, seen, step, "sensor", NOW)
    assert not take_step(settings, routing, seen, step, "sensor", NOW), "somebody has taken it out meanwhile"
    assert read_ledger(home)[-1]["evidence"]["payments"] == 300
    assert look(lake, settings, NOW) is None
    assert len(CATALOGUE.names) == 50


def test_of_two_sets_only_payments_that_both_were_read_for_alike_are_evidence(home: Path, second: Path) -> None:
    lake, day = open_lake(Settings(home=home)), NOW.date() - timedelta(days=1)
    challenge(home, second, WHY, datetime(day.year, day.month, day.day, tzinfo=UTC))
    made = vectors(np.random.default_rng(1), 60)
    both = {"other_version": "fraud-detector/2", "other_score": 0.1}
    whole, fallen = seen("redis"), seen("default")
    records = []
    for n, each in enumerate(decided(day, made, np.full(60, 0.2), **both, scored_by="champion")):
        served = degraded() if n % 6 in (1, 4) else each.served_by
        other = (whole, whole, fallen, fallen, None, None)[n % 6]
        records.append(msgspec.structs.replace(each, served_by=served, other_seen=other))
    log_decisions(lake, records)
    evidence = gather(lake, read_routing(home), NOW, threshold=0.6, maturity_days=0, band=2.0, rules=LabelRules())
    # of one set, what is missing is missing to both
    assert evidence.payments == 30
    assert evidence.errors.mean == 0


def seen(store: str) -> Seen:
    return Seen(
        catalogue_hash="0123456789ab", vector=b"", user_features=store, merchant_features="redis", user_snapshot=None,
        merchant_snapshot=None,
    )  # fmt: skip
