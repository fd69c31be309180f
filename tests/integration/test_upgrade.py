"""Service and platform are upgraded, and taken back, in either order: two real versions of the code on one home, one
Redis and one log. Every payment gets an answer, no score is wrong, and no payment is decided twice.

The other version is a commit of this repository, so that it is not there in a shallow clone. `make test-upgrade` also
takes the one from before features had hashes, which needs an environment of its own.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from service_kit import FEATURE_VALUE, free_port
from upgrade_kit import Service, Version, here, payments

from benchmarks.compare.checkouts import CompareError, base_checkout
from fraud_platform.audit.day import replay_decisions
from fraud_platform.decision.serving_model import load_model, recorded_values
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import release_folder
from fraud_platform.online.embedded_redis import ensure_redis, stop_redis
from fraud_platform.settings import Settings

NEAREST = "0ae27d359613"
"""The last version before features had hashes whose locked packages are the same."""
FIRST = "853f2c443835"
"""The version before that whose values, records and packages are others."""
BASES = [
    NEAREST,
    pytest.param(
        FIRST,
        marks=pytest.mark.skipif(
            "FRAUD_TEST_UPGRADE" not in os.environ,
            reason="an environment of its own takes minutes: `make test-upgrade` makes it",
        ),
    ),
]
EACH = 6
"""Payments of a stage: two of each user."""
BATCH = [*range(len(CATALOGUE.of("user")) + len(CATALOGUE.of("merchant")))]

pytestmark = pytest.mark.timeout(1_200)


class Course:
    """What was asked of whom, in which order, and what came of it."""

    def __init__(self, old: Version, new: Version) -> None:
        self.old, self.new = old, new
        self.asked: dict[str, dict[str, Any]] = {}
        self.answers: dict[str, dict[str, Any]] = {}
        self.repeats: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        """What a later stage answered on a payment of an earlier one, by stage and transaction_id."""
        self.days = {datetime.now(UTC).date()}

    def play(self) -> None:
        """Upgrade and take back, in either order; taken back, the old service starts anew on what the new one left."""
        self.old.night(1)
        with ExitStack() as running:
            old, new = (running.enter_context(version.service()) for version in (self.old, self.new))
            for service in (old, new):
                service.wait()
            self._ask("old-on-old", old)
            self._ask("service-first", new)
            self.new.night(2)
            self._wait_for(new, "fraud-detector/2")
            self._ask("platform-first", old)
            self._ask("both-new", new)
            old = running.enter_context(self.old.service())
            old.wait()
            self._ask("service-back", old)
            self.old.night(1)
            self._wait_for(old, "fraud-detector/1")
            self._ask("both-back", old)
        self.days.add(datetime.now(UTC).date())

    def _ask(self, stage: str, service: Service) -> None:
        for name in self.answers:
            self.repeats[stage, name] = service.ask(self.asked[name])
        for payment in payments(stage, EACH):
            name = payment["transaction_id"]
            self.asked[name], self.answers[name] = payment, service.decide(payment)

    def _wait_for(self, service: Service, model: str) -> None:
        """A release is followed within a second."""
        deadline = time.monotonic() + 30
        while True:
            (payment,) = payments(f"wait-{len(self.asked)}", 1)
            self.asked[payment["transaction_id"]] = payment
            answer = service.decide(payment)
            if answer["model_version"] == model:
                return
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)

    def records(self) -> dict[str, DecisionRecord]:
        """By transaction_id, read by this version."""
        found = [record for day in sorted(self.days) for record in read_spool(self.new.home, day)]
        return {record.request.transaction_id: record for record in found}


@pytest.fixture(scope="module", params=BASES)
def course(
    request: pytest.FixtureRequest, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Course]:
    with redis.Redis.from_url(redis_server) as client:
        client.flushall()
    folder = tmp_path_factory.mktemp("upgrade")
    home = folder / "home"
    home.mkdir()
    try:
        with base_checkout(request.param, folder / "before") as before:
            played = Course(Version(before, home, redis_server), Version(here(), home, redis_server))
            played.play()
            yield played
    except CompareError as error:
        pytest.skip(f"NOTHING IS UPGRADED: the version before is not in this clone's history ({error})")


def stage_of(transaction_id: str) -> str:
    return transaction_id.rpartition("-")[0]


def of_first(course: Course) -> bool:
    return course.old.checkout.commit.startswith(FIRST)


def test_every_payment_is_answered_by_a_whole_model(course: Course) -> None:
    assert len(course.answers) == 6 * EACH
    assert {name: answer["degraded"] for name, answer in course.answers.items() if answer["degraded"]} == {}


def test_each_stage_is_decided_by_the_newest_model_that_its_service_can_load(course: Course) -> None:
    by_stage = {stage_of(name): answer["model_version"] for name, answer in course.answers.items()}
    # a model on values that the first version does not compute is refused there, and the one that it has decides on
    newest = "fraud-detector/1" if of_first(course) else "fraud-detector/2"
    assert by_stage == {
        "old-on-old": "fraud-detector/1",
        "service-first": "fraud-detector/1",
        "platform-first": newest,
        "both-new": "fraud-detector/2",
        "service-back": newest,
        "both-back": "fraud-detector/1",
    }


def test_no_payment_is_decided_twice_whoever_is_asked_again(course: Course) -> None:
    assert len(course.repeats) == EACH * (1 + 2 + 3 + 4 + 5)
    for (stage, name), (status, answer) in course.repeats.items():
        if of_first(course) and stage != "both-new" and stage_of(name) in ("service-first", "both-new"):
            # it tells payments apart by a hash of the body that has been made otherwise since
            assert (status, answer["field"]) == (409, "transaction_id"), (stage, name)
        else:
            assert (status, answer) == (200, course.answers[name]), (stage, name)


def test_every_vector_is_the_right_one_and_its_score_the_model_s(course: Course) -> None:
    records, counted = course.records(), Counter[str]()
    models = {n: load_model(release_folder(course.new.home, f"fraud-detector-{n}")) for n in (1, 2)}
    at = CATALOGUE.position
    for name, payment in course.asked.items():
        record = records[name]
        counted[payment["user_id"]] += 1
        assert set(record.values[BATCH].tolist()) == {FEATURE_VALUE}, name
        assert record.values[at["user_txn_count_24h"]] == counted[payment["user_id"]], name
        assert record.values[at["amount"]] == 100 * payment["amount"], name
        model = models[int(record.model_version.rpartition("/")[2])]
        assert record.score == model.probability(recorded_values(record, model.features)), name


def test_the_new_version_makes_every_decision_again_without_a_difference(course: Course) -> None:
    settings = Settings(home=course.new.home, redis_url=course.new.redis_url)
    reports = [replay_decisions(settings, open_lake(settings), day) for day in sorted(course.days)]
    assert sum(report.decisions for report in reports) == len(course.asked)
    assert [(report.differing, report.not_kept) for report in reports] == [({}, {})] * len(reports)


TAKEN_BACK = """
import redis
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.embedded_redis import ensure_redis, stop_redis
from fraud_platform.settings import Settings
with redis.Redis.from_url(ensure_redis(Settings()), decode_responses=True) as client:
    print(client.get("kept"))
    client.set("since", "yes")
"""


def test_an_embedded_redis_that_was_taken_back_is_what_stands_afterwards(
    course: Course, make_settings: Callable[..., Settings]
) -> None:
    settings = make_settings()
    old = Version(course.old.checkout, settings.home, None, {"FRAUD_REDIS_PORT": str(free_port())})
    # the server of before cannot read what the present one writes, and begins anew
    kept = None if of_first(course) else "yes"
    try:
        with redis.Redis.from_url(ensure_redis(settings), decode_responses=True) as client:
            client.set("kept", "yes")
        assert old.run("-c", TAKEN_BACK).split() == [str(kept)]
        with redis.Redis.from_url(ensure_redis(settings), decode_responses=True) as client:
            assert (client.get("kept"), client.get("since")) == (kept, "yes")
    finally:
        assert stop_redis(settings)
