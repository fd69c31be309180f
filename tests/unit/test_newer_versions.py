"""What a later version of the platform stored: each reader refuses it in a sentence that says what to do, or passes
over what it does not know where the rest means what it always has."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fraud_platform.audit.decision import DecisionReplay
from fraud_platform.decision.api_keys import KeysError, add_key, keys_path, read_keys
from fraud_platform.decision.policy_record import PolicyError, current_file, first_policy, put_in_force, read_policy
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.rows import anonymised_record
from fraud_platform.erasure.suppression import read_suppression, suppress, suppression_path
from fraud_platform.inference_log.record import SCHEMA_VERSION, DecisionRecord, decode_record, encode_record
from fraud_platform.inference_log.spool import SpoolWriter, read_spool
from fraud_platform.inference_log.table import rows
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import POINTER_FILE, Bundle, BundleError, releases
from fraud_platform.model.routing import Routing, read_routing, write_routing
from fraud_platform.monitoring.skew import OfflineDay
from fraud_platform.online.packed import USER_VECTOR
from fraud_platform.online.rows import Refusal, RowReader
from fraud_platform.online.snapshot_record import SnapshotRecord, read_record
from fraud_platform.online.snapshot_record import encode_record as encode_snapshot
from fraud_platform.recovery.backup import MANIFEST, BackupError, backup, restore
from fraud_platform.regions.publication import RECORD, Publication, encoded, read_publication
from fraud_platform.settings import Settings
from fraud_platform.versions import NewerVersionError
from tests.engine_kit import NOW as ENGINE_NOW
from tests.engine_kit import World, body
from tests.integration.service_kit import small_model
from tests.record_kit import DAY, record

NOW = datetime(2026, 11, 23, tzinfo=UTC)
LATER = SCHEMA_VERSION + 1
USE = re.escape("a later version wrote it, so use that one, or one later still")
USE_WHERE = "where a later version of the platform wrote it, use that one"


def of_later(plain: DecisionRecord) -> bytes:
    """A record as a later version writes it, with two fields more."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(plain))
    fields[0] = LATER
    return msgspec.msgpack.encode([*fields, "a new field", {"and": "another"}])


def change_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))


def test_a_later_decision_record_is_carried_as_it_is(tmp_path: Path) -> None:
    payload = of_later(record())
    writer = SpoolWriter(tmp_path, "w")
    writer.append(DAY, payload)
    writer.close()
    (found,) = read_spool(tmp_path, DAY)
    assert (found.schema_version, found.decision, found.score) == (LATER, "allow", 0.1)
    assert not found.is_known
    # whatever the reader does not know is in the lake's column of the whole record
    assert rows([(found, payload)])["record"].to_pylist() == [payload]


def test_a_later_decision_record_is_not_written_anew() -> None:
    with pytest.raises(NewerVersionError, match=f"the record of decision 0+ is of form {LATER}, .* {USE}"):
        encode_record(decode_record(of_later(record())))
    with pytest.raises(NewerVersionError, match=USE):
        anonymised_record(of_later(record()), Names("u-1"), {"u-1": "erased-1"})


def test_a_later_decision_is_not_made_again(tmp_path: Path) -> None:
    replayed = DecisionReplay(Settings(home=tmp_path)).replay(
        decode_record(of_later(record())), OfflineDay(Lake(str(tmp_path)), DAY)
    )
    assert not replayed.stands
    assert replayed.not_kept is not None
    assert re.search(f"the record is of form {LATER}, .* {USE}", replayed.not_kept)


async def test_a_retry_of_what_a_later_version_decided_is_told_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    answer = await world.engine(0.9).decide(body(), "default")
    (kept,) = world.recorder.records
    world.redis.values["default", "t-1"] = of_later(kept)
    again = world.engine(0.1)
    for _ in range(2):
        assert (await again.decide(body(), "default")).body == answer.body
    conflict = await again.decide(body(amount=1), "default")
    assert (conflict.status, json.loads(conflict.body)["field"]) == (409, "amount")
    # whoever decided it wrote it down, with all that it knows
    assert world.recorder.records == [kept]
    assert not world.meter.failures
    world.explainers[0].close()
    world.explainers[1].close()


async def test_a_later_decision_that_is_superseded_is_left_for_its_own_version_to_mark(tmp_path: Path) -> None:
    world = World(tmp_path)
    strict = record(decision="block", decision_id="1" * 32, received_at=ENGINE_NOW + 1, unsettled=True)
    world.redis.values["default", "t-1"] = of_later(record(received_at=ENGINE_NOW))
    decisions = world.decisions()
    decisions.take_up(strict, encode_record(strict))
    assert await decisions.settle_waiting()
    assert world.redis.values["default", "t-1"] == encode_record(strict)
    assert world.superseded == []


def test_a_later_snapshot_record_counts_as_missing_and_is_told() -> None:
    now = 1_795_435_200_000_000
    medians: list[float | None] = [1.0] * len(USER_VECTOR.vector)
    plain = SnapshotRecord(
        view=USER_VECTOR.name, snapshot=DAY, snapshot_at=now, visible_from=now, loaded_at=now, catalogue_hash="abc",
        medians=medians, rows=1, view_hash=USER_VECTOR.hash,
    )  # fmt: skip
    told: list[Refusal] = []
    reader = RowReader("redis", USER_VECTOR, 3, told.append)
    own = np.ones(len(medians), np.float32)
    assert reader.read([None] * 5, encode_snapshot(plain), own, now).served_by == "redis"
    later = encode_snapshot(msgspec.structs.replace(plain, form=2))
    row = reader.read([None] * 5, later, own, now)
    assert (row.served_by, row.refused) == ("default", True)
    assert told[0].detail.endswith("its record is of form 2, of a later version; this service knows up to 1")
    assert read_record(later, USER_VECTOR) is None


def test_a_later_routing_is_refused(tmp_path: Path) -> None:
    (releases(tmp_path) / "fraud-detector-7").mkdir(parents=True)
    write_routing(tmp_path, Routing(release="fraud-detector-7"))
    assert read_routing(tmp_path).release == "fraud-detector-7"
    # a stage that is not known here would be told of in other words, were the form not read first
    change_json(releases(tmp_path) / POINTER_FILE, form=2, stage="by segment")
    with pytest.raises(BundleError, match=f"current.json is of form 2, .* {USE}"):
        read_routing(tmp_path)


def test_a_later_bundle_is_refused(tmp_path: Path) -> None:
    _, bundle = small_model(version=1, seed=1, deciding="amount")
    bundle.write(tmp_path / "made")
    (tmp_path / "made" / "SHA256SUMS").unlink()
    change_json(tmp_path / "made" / "bundle.json", ensemble=["another"])
    with pytest.raises(BundleError, match=rf"unknown fields \['ensemble'\]; {USE_WHERE}, or release a model"):
        Bundle.load(tmp_path / "made")


def test_a_later_policy_is_refused(tmp_path: Path) -> None:
    put_in_force(tmp_path, first_policy(Settings(home=tmp_path), NOW))
    change_json(current_file(tmp_path), segments=[])
    with pytest.raises(PolicyError, match=f"unknown field `segments`.* {USE_WHERE}"):
        read_policy(tmp_path)


def test_later_keys_are_refused(tmp_path: Path) -> None:
    path = keys_path(tmp_path)
    add_key(path, "acquirer", ["decide"], NOW)
    change_json(path, limits={})
    with pytest.raises(KeysError, match=f"unknown field `limits`; {USE_WHERE}"):
        read_keys(path)


def test_a_later_publication_is_refused(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    plain = Publication(
        number=1, published_at=NOW, routing=Routing(release="fraud-detector-7"), policy=None, releases={}
    )
    lake.write_document(RECORD, encoded(plain))
    assert read_publication(lake) == plain
    path = tmp_path / RECORD
    change_json(path, form=2, releases=["another shape"])
    with pytest.raises(NewerVersionError, match=f"in_force.json is of form 2, .* {USE}"):
        read_publication(lake)
    lake.write_document(RECORD, encoded(plain))
    change_json(path, routing={"release": "fraud-detector-7", "form": 2})
    with pytest.raises(NewerVersionError, match=f"the routing in {RECORD} is of form 2, .* {USE}"):
        read_publication(lake)


def test_a_later_backup_is_not_put_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    put_in_force(settings.home, first_policy(settings, NOW))
    backup(settings, tmp_path / "kept", NOW)
    elsewhere = Settings(home=tmp_path / "elsewhere")
    manifest = tmp_path / "kept" / MANIFEST
    change_json(manifest, form=2, files={"of": "another shape"})
    with pytest.raises(BackupError, match=f"the backup .* is of form 2, .* {USE}; nothing was restored"):
        restore(elsewhere, tmp_path / "kept")
    assert not elsewhere.home.exists()


def test_a_backup_of_before_there_were_forms_is_put_back(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    put_in_force(settings.home, first_policy(settings, NOW))
    backup(settings, tmp_path / "kept", NOW)
    manifest = tmp_path / "kept" / MANIFEST
    said = json.loads(manifest.read_bytes())
    del said["form"]
    manifest.write_text(json.dumps(said))
    assert "home/policy/current.json" in restore(Settings(home=tmp_path / "elsewhere"), tmp_path / "kept")


def test_a_later_record_of_the_erased_lets_nobody_in_again(tmp_path: Path) -> None:
    suppress(tmp_path, Names("u-1"), 1)
    change_json(suppression_path(tmp_path), cards=["erased-2"])
    with pytest.raises(msgspec.ValidationError, match=f"suppressed.json: .*unknown field `cards`; {USE_WHERE}"):
        read_suppression(tmp_path)
