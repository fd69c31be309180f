"""Two regions on one machine: each with its Redis, service and log, one lake and one trainer between them.

The tests are the story of a day, told in order: both decide, a release is promoted, the second region is cut off while
the first goes on, it comes back and catches up, the day is built, and both regions' payments replay bit for bit.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_kit import free_port, publish_small_model

from fraud_platform.clock import clock_of, move_clock, present
from fraud_platform.dataset import fix_dataset
from fraud_platform.decision.policy_change import OWN_VERSIONS, change_policy, parse_change
from fraud_platform.decision.policy_record import read_policy
from fraud_platform.features import tables
from fraud_platform.features.snapshots import write_medians, write_merchant_features, write_user_features
from fraud_platform.features.tiles import write_label_tiles, write_merchant_tiles, write_user_tiles
from fraud_platform.features.training_set import write_training_set
from fraud_platform.history import build_history
from fraud_platform.inference_log.process import drain
from fraud_platform.inference_log.record import DecisionRecord
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.steps import ingest_labels, ingest_rates, ingest_transactions
from fraud_platform.lake import Lake, open_lake
from fraud_platform.model.bundle import releases
from fraud_platform.model.following import FollowingError, read_followed
from fraud_platform.model.ledger import read_ledger
from fraud_platform.model.release import Reason, return_to
from fraud_platform.model.routing import read_routing
from fraud_platform.monitoring.skew import SKEW, write_skew
from fraud_platform.online.embedded_redis import ensure_redis, stop_redis
from fraud_platform.online.packed import MERCHANT_VECTOR, USER_VECTOR, VIEWS
from fraud_platform.online.shards import connect_redis
from fraud_platform.online.snapshot_load import load_snapshot_feast
from fraud_platform.online.snapshot_record import in_force
from fraud_platform.online.warm import warm_velocity
from fraud_platform.regions.publication import file_name, hashes
from fraud_platform.replay import replay_day, spans_of
from fraud_platform.settings import Settings

ROOT = Path(__file__).parents[2]
FIRST_DAY, DAY = date(2026, 3, 1), date(2026, 3, 7)
SECONDS = 120


def at(day: date, hours: float) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + hours * 3_600) * 1_000_000


@dataclass
class Region:
    """A home with what runs in it."""

    settings: Settings
    http: httpx.Client
    decided: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Answers by transaction_id."""

    def pay(self, name: str, user: str, merchant: str, amount: float) -> dict[str, Any]:
        body = {
            "transaction_id": name, "user_id": user, "merchant_id": merchant, "amount": amount, "currency": "EUR",
            "country": "DE", "user_country": "DE", "channel": "online", "device_id": "phone",
            "timestamp": present(self.settings).isoformat(),
        }  # fmt: skip
        response = self.http.post("/v1/predict", json=body)
        assert response.status_code == 200, response.text
        self.decided[name] = response.json()
        return self.decided[name]

    @property
    def serves(self) -> str:
        """The release that its service decides by."""
        return str(self.http.get("/readyz").json()["checks"]["model"]["version"]).replace("/", "-")

    def snapshots(self) -> set[date | None]:
        with connect_redis(ensure_redis(self.settings)) as client:
            return {record.snapshot if (record := in_force(client, view)) else None for view in VIEWS}


@dataclass
class World:
    """Both regions, and the link by which the second reaches the lake."""

    first: Region
    west: Region
    lake: Lake
    link: Path
    user: str
    merchant: str
    sent: int = 0

    def move(self, hours: float, day: date = DAY) -> None:
        assert self.first.settings.clock_file is not None
        move_clock(self.first.settings.clock_file, at(day, hours))

    def cut(self) -> None:
        """Take the lake from the second region."""
        self._point(self.link.with_name("nowhere"))

    def join(self) -> None:
        """Give it back."""
        self._point(Path(self.lake.root))

    def _point(self, target: Path) -> None:
        other = self.link.with_name("other")
        other.symlink_to(target)
        other.replace(self.link)

    def trade(self, count: int) -> None:
        """The same people pay in both regions, in turn."""
        people = [(self.user, self.merchant), ("traveller", "kiosk"), ("traveller", self.merchant)]
        for _ in range(count):
            self.sent += 1
            for number, region in enumerate((self.first, self.west)):
                user, merchant = people[self.sent % len(people)]
                region.pay(f"{region.settings.region or 'first'}-{self.sent}", user, merchant, 10 + self.sent + number)


def launch(stack: ExitStack, settings: Settings, log: str, *command: str) -> "subprocess.Popen[bytes]":
    # BentoML keeps its metrics' files in its home, where a second server would empty them
    own = {"BENTOML_HOME": str(settings.home / "bentoml"), "OMP_NUM_THREADS": "1"}
    with (settings.home / log).open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, **settings.environment(), **own},
            stdout=output, stderr=output,
        )  # fmt: skip
    stack.callback(process.wait, 30)
    stack.callback(process.send_signal, signal.SIGTERM)
    return process


def cli(settings: Settings, *command: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, **settings.environment()}
    return subprocess.run(
        [sys.executable, "-m", "fraud_platform.cli", *command], cwd=ROOT, env=environment, capture_output=True,
        text=True, check=False,
    )  # fmt: skip


def wait(condition: Callable[[], bool], what: str) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < SECONDS, what
        time.sleep(0.05)
    return time.monotonic() - began


def ready(http: httpx.Client) -> bool:
    try:
        return bool(http.get("/readyz").json()["checks"]["redis"]["ok"])
    except httpx.TransportError:
        return False


def load(settings: Settings, lake: Lake, day: date) -> None:
    for view in VIEWS:
        load_snapshot_feast(settings, lake, view, day, now=clock_of(settings))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A week of a small bank; the first region has loaded the snapshot before the last one, and the second follows."""
    root = tmp_path_factory.mktemp("regions")
    clock, link = root / "clock", root / "lake"
    move_clock(clock, at(DAY, 10))

    def settings_of(name: str, **fields: Any) -> Settings:
        own = {"service_port": free_port(), "postgres_url": "postgresql://127.0.0.1:1/x"}
        settings = Settings(home=root / name, clock_file=clock, **{**own, **fields})
        settings.home.mkdir()
        return settings

    first = settings_of("first", history_start=FIRST_DAY, users=40, merchants=12, transactions_per_day=200)
    west = settings_of("west", region="west", lake_url=str(link))
    lake = open_lake(first)
    Path(lake.root).mkdir()
    link.symlink_to(lake.root)
    publish_small_model(first.home, version=1, seed=1)
    with ExitStack() as stack:
        regions = []
        for settings in (first, west):
            ensure_redis(settings)
            stack.callback(stop_redis, settings)
            http = httpx.Client(base_url=f"http://127.0.0.1:{settings.service_port}", timeout=10)
            regions.append(Region(settings, stack.enter_context(http)))
        launch(stack, first, "publish.log", "fraud_platform.cli", "region", "publish")
        launch(stack, west, "follow.log", "fraud_platform.cli", "region", "follow")
        for region in regions:
            wait((releases(region.settings.home) / "current.json").exists, "the second region has no release")
            launch(stack, region.settings, "service.log", "bentoml", "serve", "bento.service:FraudDetector")
        # while they start
        build_history(first, lake, present(first))
        load(first, lake, DAY - timedelta(days=2))
        with connect_redis(ensure_redis(first)) as client:
            warm_velocity(first, lake, client, DAY - timedelta(days=1), now_us=at(DAY, 10))
        for region in regions:
            wait(lambda region=region: ready(region.http), "a service is not ready")
        raw = lake.read(tables.RAW_TRANSACTIONS, DAY - timedelta(days=1)).to_pylist()[0]
        found = World(regions[0], regions[1], lake, link, raw["user_id"], raw["merchant_id"])
        wait(lambda: found.west.snapshots() == {DAY - timedelta(days=2)}, "the second region has no snapshot")
        wait(lambda: "complete since" in (west.home / "follow.log").read_text(), "its velocity was not begun")
        found.move(11)
        yield found


def records(world: World) -> list[DecisionRecord]:
    return list(LogTable(world.lake).records(DAY))


def test_both_regions_decide_for_the_same_people(world: World) -> None:
    world.trade(9)
    answers = [*world.first.decided.values(), *world.west.decided.values()]
    assert {answer["degraded"] for answer in answers} == {False}
    assert {answer["model_version"] for answer in answers} == {"fraud-detector/1"}
    # a caller who tries the other region gets a second decision there, and the same one again in each
    once = world.first.pay("tried-twice", "traveller", "kiosk", 99)
    twice = world.west.pay("tried-twice", "traveller", "kiosk", 99)
    assert (once["transaction_id"], twice["transaction_id"]) == ("tried-twice", "tried-twice")


def test_a_promotion_is_in_force_in_both_with_equal_hashes(world: World) -> None:
    first, west = world.first.settings.home, world.west.settings.home
    publish_small_model(first, version=2, seed=2)
    seconds = wait(lambda: world.west.serves == "fraud-detector-2", "the promotion did not arrive")
    print(f"\na promotion is in force in the second region after {seconds:.1f} s")
    assert hashes(releases(first) / "fraud-detector-2") == hashes(releases(west) / "fraud-detector-2")
    assert read_routing(first) == read_routing(west)
    assert [(line["who"], line["to"]) for line in read_ledger(west) if line["what"] == "champion"] == [
        ("region follow", "fraud-detector-1"),
        ("region follow", "fraud-detector-2"),
    ]
    world.trade(2)
    # back, and there again: what is here already is not copied
    reason = Reason(who="test", why="it blocks too much")
    return_to(first, "fraud-detector-1", reason, present(world.first.settings))
    seconds = wait(lambda: world.west.serves == "fraud-detector-1", "the roll-back did not arrive")
    print(f"a roll-back after {seconds:.1f} s")
    world.trade(2)


def test_who_decides_is_changed_in_the_first_region_alone(world: World) -> None:
    west = world.west.settings
    refused = cli(west, "release", "rollback", "--why", "no")
    assert refused.returncode == 1
    assert "follows the first region" in refused.stderr
    with pytest.raises(FollowingError, match="changes the policy"):
        change_policy(west, parse_change(b'{"why": "no", "threshold": 0.9}'), "test", present(west))
    change = parse_change(b'{"why": "harsher", "threshold": 0.65}')
    changed = change_policy(world.first.settings, change, "test", present(west))
    wait(lambda: read_policy(west.home) == changed, "the policy did not arrive")
    # a kill switch must work while everything else is away
    change_policy(west, parse_change(b'{"why": "fire", "kill_switch": "rules_only"}'), "test", present(west))
    wait(lambda: world.west.http.get("/readyz").json()["checks"]["policy"]["kill_switch"] == "rules_only", "own switch")
    assert world.west.pay("by-rules", "traveller", "kiosk", 5)["policy_version"] > OWN_VERSIONS
    back = change_policy(west, parse_change(b'{"why": "out", "kill_switch": "off"}'), "test", present(west))
    assert back == changed
    wait(lambda: world.west.http.get("/readyz").json()["checks"]["policy"]["version"] == changed.version, "back")


def test_a_region_cut_off_decides_on_what_it_has_and_refuses_what_is_damaged(world: World) -> None:
    first, west = world.first.settings, world.west.settings
    world.move(12)
    world.cut()
    load(first, world.lake, DAY - timedelta(days=1))
    publish_small_model(first.home, version=3, seed=3)
    wait(lambda: world.first.serves == "fraud-detector-3", "the promotion")
    # the one file that no other file's hash vouches for
    damaged = Path(world.lake.root) / file_name("fraud-detector-3", "bundle.json")
    wait(lambda: '"fraud-detector-3"' in (Path(world.lake.root) / "releases/in_force.json").read_text(), "published")
    damaged.write_bytes(damaged.read_bytes().replace(b'"threshold": 0.6', b'"threshold": 0.9'))
    world.trade(6)
    assert not world.west.decided[f"west-{world.sent}"]["degraded"]
    assert world.west.serves == "fraud-detector-1"
    assert world.west.snapshots() == {DAY - timedelta(days=2)}
    try:
        delivered = drain(west, 1)
    except OSError:
        delivered = False
    assert not delivered, "the lake is away"

    world.join()
    began = time.monotonic()

    def problem() -> str:
        followed = read_followed(west.home)
        return (followed and followed.problem) or ""

    wait(lambda: "the first region says" in problem(), "the damaged file was not noticed")
    assert read_routing(west.home).release == world.west.serves == "fraud-detector-1"
    assert not (releases(west.home) / "fraud-detector-3").exists()
    assert list(west.home.glob(".release-*")) == []
    wait(lambda: world.west.snapshots() == {DAY - timedelta(days=1)}, "the snapshot did not arrive")
    print(f"\nthe snapshot is in force {time.monotonic() - began:.1f} s after the lake is back")
    assert cli(first, "region", "publish", "--once").returncode == 0
    wait(lambda: world.west.serves == "fraud-detector-3", "what was mended did not arrive")
    assert problem() == ""
    assert hashes(releases(first.home) / "fraud-detector-3") == hashes(releases(west.home) / "fraud-detector-3")
    world.trade(6)


def test_every_decision_is_in_the_lake_once_with_its_region(world: World) -> None:
    began = time.monotonic()
    for region in (world.first, world.west):
        assert drain(region.settings, 30)
    print(f"\nboth logs are in the lake after {time.monotonic() - began:.1f} s")
    found = Counter((record.region, record.request.transaction_id) for record in records(world))
    expected = [(region.settings.region, name) for region in (world.first, world.west) for name in region.decided]
    assert found == Counter(expected)
    column = LogTable(world.lake).read(DAY, ["region"])["region"].to_pylist()
    assert Counter(column) == Counter(region for region, _ in expected)
    committed = json.loads((Path(world.lake.root) / "inference_log/committed.json").read_text())
    assert "redis:fraud:inference_log@west" in json.dumps(committed)


def test_the_day_is_built_and_both_regions_replay_bit_for_bit(world: World) -> None:
    world.move(0.5, DAY + timedelta(days=1))
    settings, lake = world.first.settings, world.lake
    source = fix_dataset(settings, lake, present(settings))[1]
    ingest_rates(lake, source, [DAY])
    (report,) = ingest_transactions(lake, source, [DAY], settings.base_currency)
    ingest_labels(lake, source, [DAY])
    for write in (
        write_user_tiles,
        write_merchant_tiles,
        write_label_tiles,
        write_user_features,
        write_merchant_features,
    ):
        write(settings, lake, [DAY])
    write_medians(lake, [DAY])
    write_training_set(
        settings, lake, [DAY], *(spans_of(settings, lake, view) for view in (USER_VECTOR, MERCHANT_VECTOR))
    )
    assert report.decided == len(records(world))

    seen = {}
    for region in (world.first.settings, world.west.settings):
        replayed = seen[region.region] = replay_day(region, lake, DAY, ensure_redis(region))
        assert replayed.differences == 0, (region.region, replayed.differing, replayed.examples, replayed.unmatched)
    assert seen["west"].rows == len(world.west.decided) - 1
    assert [seen[name].elsewhere for name in ("", "west")] == [0, 1], "tried twice, decided twice, counted once"
    by_cli = cli(settings, "replay", "--date", DAY.isoformat(), "--region", "west")
    assert by_cli.returncode == 0, by_cli.stderr
    assert "1 of another region" in " ".join(by_cli.stdout.split())

    rows = {row["transaction_id"]: row for row in lake.read(tables.TRAINING_SET, DAY).to_pylist()}
    assert {rows[f"west-{world.sent}"]["user_snapshot"]} == {DAY - timedelta(days=1)}
    assert rows["first-17"]["user_snapshot"] != rows["west-17"]["user_snapshot"], "one of them was cut off"
    causes = write_skew(lake, [DAY])[DAY]
    skew = lake.read(SKEW, DAY).to_pylist()
    assert {row["differences"] for row in skew} == {0}, [row for row in skew if row["differences"]]
    assert skew[0]["compared"] >= 10, causes
    assert causes["not_in_training_set"] == 1


def test_what_a_region_has_ages_where_it_stays_cut_off(world: World) -> None:
    world.cut()
    world.move(12, DAY + timedelta(days=5))
    answer = world.west.pay("days-later", world.user, world.merchant, 12)
    assert answer["degraded"]
    assert answer["served_by"]["user_features"] == "default"
