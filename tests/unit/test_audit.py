"""Decisions again from their records: what the engine decided stands bit for bit, and whatever was altered is named."""

import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from fraud_platform.audit.day import replay_decisions
from fraud_platform.audit.decision import REBUILT, DecisionReplay, Replayed
from fraud_platform.audit.screen import plain_decision
from fraud_platform.cli import app
from fraud_platform.decision.arms import Challenger
from fraud_platform.decision.serving_model import load_model
from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.homes import begin_home
from fraud_platform.inference_log.record import (
    DecisionRecord,
    ServedBy,
    decode_record,
    encode_record,
    vector_bytes,
)
from fraud_platform.inference_log.search import UnknownDecisionError, the_decision
from fraud_platform.inference_log.spool import SpoolWriter, read_spool
from fraud_platform.inference_log.table import LogTable
from fraud_platform.lake import Lake, open_lake
from fraud_platform.monitoring.skew import OfflineDay, skew
from fraud_platform.settings import Settings
from tests.engine_kit import NOW, MemoryFeatures, World, body
from tests.integration.service_kit import publish_small_model
from tests.monitoring_kit import log_decisions, write_training_day
from tests.record_kit import append

DAY = datetime.fromtimestamp(NOW // 1_000_000, UTC).date()


@dataclass
class PersonalFeatures(MemoryFeatures):
    """Users with habits of their own, drawn anew for each payment."""

    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(5))

    def _read(self, payment: Any, standing: bytes, source: str) -> Any:
        read = super()._read(payment, standing, source)
        read.user_row = self.random.uniform(5, 9_000, 17).astype(np.float32)
        read.merchant_row = self.random.uniform(5, 9_000, 10).astype(np.float32)
        read.known_countries, read.known_devices = frozenset({"DE"}), frozenset({1})
        read.velocity = np.floor(self.random.uniform(1, 90, 11))
        read.last_effective_time = payment.event_time - 61_500_000
        read.merchant_snapshot = "2026-11-22"
        return read


async def decided(settings: Settings, count: int = 12, **changes: Any) -> list[DecisionRecord]:
    """Payments decided by the engine with a real model, beside a challenger that takes half the users; into a spool."""
    for version in (1, 2):
        if not (settings.home / f"releases/fraud-detector-{version}").exists():
            publish_small_model(settings.home, version=version, seed=version)
    world = World(settings.home)
    world.features = PersonalFeatures(world.redis)
    world.recorder = SpoolWriter(settings.home, "test")  # type: ignore[assignment]
    engine = world.engine()
    champion, challenger = (load_model(settings.home / f"releases/fraud-detector-{v}") for v in (1, 2))
    engine.model, engine.challenger = champion, Challenger(challenger, 0.5)
    channels = ("online", "pos", None, " ECOMMERCE", "carrier pigeon", "webportal")
    for n in range(count):
        given: dict[str, Any] = {
            "transaction_id": f"t-{n}", "user_id": f"u-{n}", "amount": 5 + 37.5 * n, "channel": channels[n % 6],
            "user_country": ("DE", "FR", None)[n % 3], **changes,
        }  # fmt: skip
        answer = await engine.decide(body(**{k: v for k, v in given.items() if v is not None}), "shop")
        assert answer.status == 200, answer.body
        assert json.loads(answer.body)["served_by"]["model"] != "rules"
    for explainer in world.explainers:
        explainer.close()
    return list(read_spool(settings.home, DAY))


def again(settings: Settings, record: DecisionRecord) -> Replayed:
    return DecisionReplay(settings).replay(record, OfflineDay(lake_of(settings), DAY))


@lru_cache(maxsize=1)
def loaded(settings_json: str) -> DecisionReplay:
    return DecisionReplay(Settings.model_validate_json(settings_json))


def differing(settings: Settings, record: DecisionRecord, **changes: Any) -> list[str]:
    altered = msgspec.structs.replace(record, **changes)
    replayed = loaded(settings.model_dump_json()).replay(altered, OfflineDay(lake_of(settings), DAY))
    return [check.what for check in replayed.differing]


def lake_of(settings: Settings) -> Lake:
    return open_lake(settings)


async def test_what_the_engine_decided_stands_bit_for_bit(settings: Settings) -> None:
    records = await decided(settings)
    assert {record.served_by.model for record in records} == {"champion", "challenger"}
    for record in records:
        replayed = again(settings, record)
        assert replayed.stands, replayed.differing
        by = {check.what: check for check in replayed.checks}
        assert struct.pack("<d", by["score"].again) == struct.pack("<d", record.score)  # type: ignore[arg-type]
        assert {"score", "decision", "reason", "served_by", "other_score", "request_hash", *REBUILT} <= set(by)


@pytest.mark.parametrize("former", sorted(CATALOGUE.alike - {CATALOGUE.hash}))
async def test_what_was_decided_by_a_former_catalogue_stands_too(settings: Settings, former: str) -> None:
    records = await decided(settings, 6)
    for document in settings.home.glob("releases/*/bundle.json"):
        document.write_text(document.read_text().replace(CATALOGUE.hash, former))
        # a release from before there were hashes of the document
        (document.parent / "SHA256SUMS").unlink()
    fields = DecisionRecord.__struct_fields__.index("user_counted_since")
    for record in records:
        earlier = msgspec.structs.replace(record, catalogue_hash=former, schema_version=2)
        told = msgspec.msgpack.decode(encode_record(earlier))
        replayed = again(settings, decode_record(msgspec.msgpack.encode(told[:fields])))
        assert replayed.stands, (replayed.not_kept, replayed.differing)
        assert replayed.training_set == "other_catalogue"
        assert {"score", "decision", "reason", "other_score", "request_hash", "event_time"} <= {
            check.what for check in replayed.checks
        }
        assert "this code computes" in replayed.notes[-1]


async def test_a_vector_of_other_features_is_neither_scored_again_nor_named(settings: Settings) -> None:
    record, *_ = await decided(settings, 2)
    wider = np.append(record.values, np.float32(1))
    for changes in (
        {"catalogue_hash": "0123456789ab"},
        {"catalogue_hash": "0123456789ab", "vector": vector_bytes(wider)},
        {"vector": vector_bytes(wider)},
        {"vector": vector_bytes(record.values[:-1])},
    ):
        foreign = msgspec.structs.replace(record, **changes)
        replayed = again(settings, foreign)
        assert replayed.not_kept == (
            f"the vector is of catalogue {foreign.catalogue_hash}, while its model is of {CATALOGUE.hash}"
        )
        assert not replayed.stands
        assert next(iter(plain_decision(replayed)["values"])) == "value 1"
    assert list(plain_decision(again(settings, record))["values"]) == list(CATALOGUE.names)


async def test_a_decision_on_an_amount_that_is_not_known_stands_too(settings: Settings) -> None:
    publish_small_model(settings.home, version=1, seed=1)
    world = World(settings.home)
    world.features = PersonalFeatures(world.redis)
    engine = world.engine()
    engine.model = load_model(settings.home / "releases/fraud-detector-1")
    await engine.decide(body(currency="KWD", channel="online", user_country="FR"), "shop")
    for explainer in world.explainers:
        explainer.close()
    (record,) = world.recorder.records
    assert record.amount is None
    replayed = again(settings, record)
    assert replayed.stands, replayed.differing
    by = {check.what: check for check in replayed.checks}
    assert by["reason"].again == "amount_unknown_fallback"
    assert np.isnan(by["amount_zscore_90d"].again)
    # were a rate to fill it in, the decision would be another
    assert "reason" in differing(settings, record, amount=4250)


def test_the_features_that_a_request_gives_are_all_but_those_that_ask_a_store() -> None:
    left = {feature.name for feature in CATALOGUE.of("request")} - set(REBUILT)
    assert left == {"country_is_new", "device_is_new", "seconds_since_last"}


async def test_whatever_was_altered_is_named(settings: Settings) -> None:
    records = await decided(settings)
    record = next(r for r in records if r.request.channel == "online" and r.decision == "block")
    score = record.score
    assert score is not None
    assert differing(settings, record, score=float(np.nextafter(score, 1))) == ["score"]
    assert differing(settings, record, other_score=record.other_score + 1e-9) == ["other_score"]  # type: ignore[operator]
    # the thresholds are the record's: another threshold gives another decision
    higher = {"threshold": (1 + score) / 2, "review_threshold": (1 + score) / 2}
    assert differing(settings, record, **higher) == ["decision", "reason"]
    assert differing(settings, record, reason="high_amount_fallback") == ["reason"]
    assert differing(settings, record, event_time=record.event_time + 3_600_000_000) == ["event_time", "hour_of_day"]
    other = msgspec.structs.replace(record.request, channel="pos")
    assert differing(settings, record, request=other) == ["channel"]
    assert differing(settings, record, request=other, channel="pos") == ["is_online"]
    another = msgspec.structs.replace(record.request, merchant_id="another")
    assert differing(settings, record, request=another) == ["request_hash"]


async def test_one_bit_of_a_rebuilt_value_is_a_difference_and_so_is_a_null(settings: Settings) -> None:
    record = (await decided(settings, 1))[0]
    for name in REBUILT:
        for changed in (np.nextafter, lambda value, _: np.float32(np.nan)):
            values = record.values
            position = CATALOGUE.names.index(name)
            values[position] = changed(values[position], np.float32(np.inf))
            found = differing(settings, record, vector=vector_bytes(values))
            assert name in found, name


async def test_logistic_regression_and_rules_are_repeated_by_the_rung_that_is_recorded(settings: Settings) -> None:
    record = (await decided(settings, 1))[0]
    champion = load_model(settings.home / f"releases/{record.model_version.replace('/', '-')}")
    score = float(champion.fallback.score(record.values[None, :])[0])
    by_regression = msgspec.structs.replace(
        record,
        score=score,
        served_by=ServedBy(user_features="redis", merchant_features="redis", model="logistic_regression"),
        scored_by="logistic_regression",
        threshold=0.98,
        review_threshold=0.97,
        decision="allow",
        reason="score_below_threshold",
    )
    assert score < 0.97
    assert again(settings, by_regression).stands
    rules = ServedBy(user_features="default", merchant_features="default", model="rules")
    nothing = vector_bytes(np.full(50, np.nan, np.float32))
    by_rules = msgspec.structs.replace(
        by_regression, score=None, other_score=None, scored_by=None, served_by=rules, vector=nothing, decision="allow",
        reason="service_unavailable_fallback", model_version="none/0", scorer_hash="",
    )  # fmt: skip
    replayed = again(settings, by_rules)
    assert replayed.stands
    assert any("no vector was built" in note for note in replayed.notes)
    large = msgspec.structs.replace(
        by_rules, amount=1_000_001, request=msgspec.structs.replace(record.request, amount_minor=1_000_001)
    )
    found = [check.what for check in again(settings, large).differing]
    assert found == ["request_hash", "decision", "reason"]


async def test_a_model_that_is_gone_or_another_is_said(settings: Settings) -> None:
    record = next(r for r in await decided(settings) if r.served_by.model == "champion")
    other_file = msgspec.structs.replace(record, scorer_hash="0" * 64)
    assert "another model file" in str(again(settings, other_file).not_kept)
    (settings.home / "releases/fraud-detector-1/bundle.json").unlink()
    replayed = again(settings, record)
    assert not replayed.stands
    assert "fraud-detector/1 cannot be loaded any more" in str(replayed.not_kept)
    # what the request alone gives is held all the same
    assert {check.group for check in replayed.checks} == {"request", "vector"}


async def test_a_reason_of_a_list_needs_the_policy_that_gave_it(settings: Settings) -> None:
    record = (await decided(settings, 1))[0]
    replayed = again(settings, msgspec.structs.replace(record, reason="block_list"))
    assert "block_list comes from policy version 3, which is not kept" in str(replayed.not_kept)


def effective_times(records: list[DecisionRecord]) -> dict[str, list[int]]:
    names = ("user_effective_time", "merchant_effective_time")
    return {name: [getattr(record, name) for record in records] for name in names}


async def test_a_decision_beside_an_attempt_that_only_the_training_set_counts_is_left_out_as_skew_leaves_it_out(
    settings: Settings,
) -> None:
    records = [
        msgspec.structs.replace(record, complete_since=0, user_snapshot="2026-11-22", merchant_snapshot="2026-11-22")
        for record in await decided(settings, 3)
    ]
    lake = lake_of(settings)
    log_decisions(lake, records)
    vectors = np.stack([record.values for record in [*records, records[1]]])
    # what the attempt that the service never saw does to the next one's velocity
    vectors[1, 30] += 1
    before = records[1].user_effective_time - 60_000_000
    times = {name: [*values, before] for name, values in effective_times(records).items()}
    write_training_day(
        lake, DAY, vectors,
        transaction_id=[*(record.request.transaction_id for record in records), "unseen"],
        user_id=[*(record.request.user_id for record in records), records[1].request.user_id],
        merchant_id=[*(record.request.merchant_id for record in records), "m-unseen"],
        user_snapshot=[date(2026, 11, 22)] * 4, merchant_snapshot=[date(2026, 11, 22)] * 4,
        received_at=[*(record.received_at for record in records), before],
        caller=[*(record.caller for record in records), "default"], **times,
    )  # fmt: skip

    report = replay_decisions(settings, lake, DAY)

    assert report.training_set == {"compared": 2, "one_sided_attempt": 1}
    assert report.stands, report.differing
    assert skew(lake, DAY)[1] == {"one_sided_attempt": 1}
    ran = CliRunner().invoke(app, ["replay", "--decided-on", str(DAY)], env={"FRAUD_HOME": str(settings.home)})
    assert ran.exit_code == 0, ran.output
    assert "training set not compared: it counts an attempt of its user or merchant" in " ".join(ran.output.split())


async def test_the_training_set_is_compared_where_it_must_equal_and_said_where_not(settings: Settings) -> None:
    records = [
        msgspec.structs.replace(record, complete_since=0, user_snapshot="2026-11-22", merchant_snapshot="2026-11-22")
        for record in await decided(settings, 4)
    ]
    # of an epoch of its own, or velocity had counted it for the others, at the same merchant
    records[3] = msgspec.structs.replace(records[3], epoch="another")
    log_decisions(lake_of(settings), records)
    vectors = np.stack([record.values for record in records])
    vectors[1, 7] = np.nextafter(vectors[1, 7], np.float32(np.inf))
    snapshots = [date(2026, 11, 22), date(2026, 11, 22), date(2026, 11, 21)]
    write_training_day(
        lake_of(settings), DAY, vectors[:3],
        transaction_id=[record.request.transaction_id for record in records[:3]], user_snapshot=snapshots,
        received_at=[record.received_at for record in records[:3]], caller=[record.caller for record in records[:3]],
        **effective_times(records[:3]),
    )  # fmt: skip
    report = replay_decisions(settings, lake_of(settings), DAY)
    assert report.decisions == 4
    assert report.training_set == {"compared": 2, "other_snapshot": 1, "not_in_training_set": 1}
    assert report.differing == {f"training set: {CATALOGUE.names[7]}": 1}
    assert (report.decisions_differing, report.stands) == (1, False)
    assert [one.record.request.transaction_id for one in report.examples] == [records[1].request.transaction_id]


async def test_a_day_counts_each_decision_once_and_a_sample_is_the_same_each_time(settings: Settings) -> None:
    records = await decided(settings)
    lake = lake_of(settings)
    log_decisions(lake, records[:7])  # in the spool and in the lake
    whole = replay_decisions(settings, lake, DAY)
    assert (whole.decisions, whole.stands) == (12, True)
    assert whole.facts == sum(len(again(settings, record).checks) for record in records)
    first, second = (replay_decisions(settings, lake, DAY, sample=5) for _ in range(2))
    assert (first.decisions, first.facts) == (second.decisions, second.facts)
    assert first.decisions == 5


async def test_a_decision_is_found_by_either_id_and_never_guessed(settings: Settings) -> None:
    records = await decided(settings, 3)
    writer = SpoolWriter(settings.home, "other")
    # the same transaction_id of another caller, and one that merely contains an id
    append(writer, msgspec.structs.replace(records[0], decision_id="e" * 32, caller="another"))
    longer = msgspec.structs.replace(records[1].request, transaction_id="t-11")
    append(writer, msgspec.structs.replace(records[1], decision_id="d" * 32, request=longer))
    writer.close()
    table = LogTable(lake_of(settings))
    log_decisions(lake_of(settings), records[:1])

    def find(identifier: str, caller: str | None = None) -> str:
        return the_decision(settings.home, table, identifier, caller).decision_id

    assert find("t-1") == records[1].decision_id
    assert find(records[0].decision_id) == records[0].decision_id
    assert find("t-0", "shop") == records[0].decision_id
    with pytest.raises(UnknownDecisionError, match=r"2 decisions have the id t-0.*caller another"):
        find("t-0")
    with pytest.raises(UnknownDecisionError, match="no decision of the caller nobody"):
        find("t-1", "nobody")


async def test_the_command_says_what_it_found_by_its_exit_code(settings: Settings) -> None:
    records = await decided(settings, 3)

    def run(*options: str) -> tuple[int, str]:
        environment = {"FRAUD_HOME": str(settings.home), "COLUMNS": "200", "NO_COLOR": "1"}
        result = CliRunner().invoke(app, ["replay", *options], env=environment)
        return result.exit_code, result.output

    code, text = run("--decision", "t-1", "--vector")
    assert (code, "the same decision again" in text, repr(records[1].score) in text) == (0, True, True)
    assert all(name in text for name in CATALOGUE.names)
    told = json.loads(run("--decision", "t-1", "--json")[1].split("\n", 1)[1])
    assert (told["decision_id"], told["stands"], told["record"]["score"]) == (
        records[1].decision_id, True, records[1].score,
    )  # fmt: skip
    received = datetime.fromisoformat(told["record"]["received_at"])
    assert received == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=records[1].received_at)
    assert told["values"].keys() == {*CATALOGUE.names}
    told = json.loads(run("--decided-on", DAY.isoformat(), "--json")[1].split("\n", 1)[1])
    assert (told["day"], told["decisions"], told["decisions_differing"], told["stands"]) == (str(DAY), 3, 0, True)
    code, text = run("--decided-on", DAY.isoformat())
    assert (code, "3 decisions" in text, "0 decisions differ" in text) == (0, True, True)
    writer = SpoolWriter(settings.home, "altered")
    append(writer, msgspec.structs.replace(records[0], decision_id="a" * 32, score=0.123))
    writer.close()
    code, text = run("--decision", "a" * 32)
    assert (code, "differs: score" in text) == (1, True)
    assert run("--decided-on", DAY.isoformat())[0] == 1
    assert run("--decision", "nobody's")[0] == 1
    assert "exactly one" in run()[1]
    assert "exactly one" in run("--decision", "t-1", "--date", "2026-11-23")[1]
    assert "--sample goes with" in run("--decision", "t-1", "--sample", "3")[1]


def test_a_day_without_decisions_is_refused(settings: Settings, tmp_path: Path) -> None:
    begin_home(tmp_path / "empty")
    environment = {"FRAUD_HOME": str(tmp_path / "empty")}
    result = CliRunner().invoke(app, ["replay", "--decided-on", "2026-01-01"], env=environment)
    assert (result.exit_code, "no decision of 2026-01-01" in result.output) == (1, True)
