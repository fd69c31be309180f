"""The first region says who decides, the others take it over: what is written, what is refused, what each changes."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bento.runtime import preflight
from fraud_platform.decision.policy_change import OWN_VERSIONS, change_policy, parse_change
from fraud_platform.decision.policy_record import PolicyRecord, read_policy
from fraud_platform.inference_log.broker import broker_name
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import NoReleaseError, releases
from fraud_platform.model.following import FollowingError, read_followed
from fraud_platform.model.ledger import read_ledger
from fraud_platform.model.release import Reason, return_to, roll_back
from fraud_platform.model.routing import Routing, read_routing, write_routing
from fraud_platform.monitoring.machine_metrics import following
from fraud_platform.regions.follow import Follower
from fraud_platform.regions.publication import file_name, hashes, read_publication
from fraud_platform.regions.publish import Publisher
from fraud_platform.settings import Settings
from tests.integration.service_kit import publish_small_model

NOW = datetime(2026, 11, 24, 10, tzinfo=UTC)
REASON = Reason(who="ann", why="a test")


class Regions:
    """Two homes on one lake."""

    def __init__(self, root: Path) -> None:
        self.first = Settings(home=root / "first", lake_url=str(root / "lake"))
        self.west = Settings(home=root / "west", lake_url=str(root / "lake"), region="west")
        self.lake = Lake(self.first.lake)
        for settings in (self.first, self.west):
            settings.home.mkdir()
        self.publisher = Publisher(self.first, self.lake)
        self.said: list[str] = []
        self.follower = Follower(self.west, self.lake, lambda: int(NOW.timestamp() * 1e6), self.said.append)

    def change(self, settings: Settings, **fields: object) -> PolicyRecord:
        return change_policy(settings, parse_change(json.dumps({"why": "a test", **fields}).encode()), "ann", NOW)

    def follow(self) -> list[str]:
        """What the first says now, taken over; returns what was not."""
        self.publisher.step(NOW)
        return [str(error) for error in self.follower.step(store=False)]


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    return Regions(tmp_path)


def test_who_decides_is_taken_over_bit_for_bit_and_said_once(regions: Regions) -> None:
    assert "nothing was published" in str(regions.follower.step()[0])
    assert regions.follow() == []
    with pytest.raises(NoReleaseError):
        read_routing(regions.west.home)
    publish_small_model(regions.first.home, version=1, seed=1)
    policy = regions.change(regions.first, threshold=0.65)
    assert regions.follow() == []
    one, other = (releases(home) / "fraud-detector-1" for home in (regions.first.home, regions.west.home))
    assert hashes(one) == hashes(other) != {}
    assert read_routing(regions.west.home) == read_routing(regions.first.home)
    assert read_policy(regions.west.home) == policy
    assert [(line["what"], line["who"], line["why"]) for line in read_ledger(regions.west.home)] == [
        ("policy", "region follow", "publication 2 of the first region"),
        ("champion", "region follow", "publication 2 of the first region"),
    ]
    assert regions.publisher.step(NOW) is None
    assert Publisher(regions.first, regions.lake).step(NOW) is None, "another process has nothing to say either"
    said = list(regions.said)
    assert (regions.follow(), regions.said) == ([], said)


def test_a_challenger_comes_with_the_champion_and_a_roll_back_copies_nothing(regions: Regions) -> None:
    for version in (1, 2):
        publish_small_model(regions.first.home, version=version, seed=version)
    routing = Routing(release="fraud-detector-1", challenger="fraud-detector-2", stage="canary", weight=0.1, since=5)
    write_routing(regions.first.home, routing)
    assert regions.follow() == []
    assert read_routing(regions.west.home) == routing
    for path in (Path(regions.lake.root) / "releases").glob("*/*"):
        path.unlink()
    roll_back(regions.first.home, "fraud-detector-2", REASON, NOW)
    assert regions.follow() == []
    assert read_routing(regions.west.home) == read_routing(regions.first.home)
    lines = [line["to"] for line in read_ledger(regions.west.home) if line["what"] == "challenger"]
    assert [line["challenger"] for line in lines] == ["fraud-detector-2", None]


@pytest.mark.parametrize("file", ["model.ubj", "bundle.json"])
@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_a_damaged_file_is_refused_and_what_is_in_force_stays(regions: Regions, damage: str, file: str) -> None:
    publish_small_model(regions.first.home, version=1, seed=1)
    assert regions.follow() == []
    publish_small_model(regions.first.home, version=2, seed=2)
    regions.publisher.step(NOW)
    path = Path(regions.lake.root) / file_name("fraud-detector-2", file)
    payload = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(payload[: len(payload) // 2])
    else:
        path.write_bytes(payload.replace(b'"threshold": 0.6', b'"threshold": 0.9') + b" ")
    (problem,) = map(str, regions.follower.step(store=False))
    assert "not in the lake" in problem if damage == "missing" else "the first region says" in problem
    followed = read_followed(regions.west.home)
    assert followed is not None
    assert followed.problem == problem
    assert read_routing(regions.west.home).release == "fraud-detector-1"
    assert not (releases(regions.west.home) / "fraud-detector-2").exists()
    policy = regions.change(regions.first, kill_switch="rules_only")
    assert regions.follow() == [], "what is said next mends the lake"
    assert read_policy(regions.west.home) == policy
    assert read_routing(regions.west.home).release == "fraud-detector-2"


def test_a_damaged_model_holds_no_kill_switch_back(regions: Regions) -> None:
    publish_small_model(regions.first.home, version=1, seed=1)
    policy = regions.change(regions.first, kill_switch="rules_only")
    regions.publisher.step(NOW)
    (Path(regions.lake.root) / file_name("fraud-detector-1", "model.ubj")).write_bytes(b"")
    assert len(regions.follower.step(store=False)) == 1
    assert read_policy(regions.west.home) == policy


def test_a_release_of_the_same_name_and_another_content_is_refused(regions: Regions) -> None:
    publish_small_model(regions.first.home, version=1, seed=1)
    publish_small_model(regions.west.home, version=1, seed=9)
    assert "differs from the first region" in regions.follow()[0]
    assert read_followed(regions.west.home).problem  # type: ignore[union-attr]


def test_while_the_lake_is_away_changes_are_made_here_and_said_later(regions: Regions, tmp_path: Path) -> None:
    for version in (1, 2):
        publish_small_model(regions.first.home, version=version, seed=version)
    assert regions.follow() == []
    lake = tmp_path / "lake"
    lake.rename(tmp_path / "away")
    lake.write_text("no folder")
    return_to(regions.first.home, "fraud-detector-1", REASON, NOW)
    assert read_routing(regions.first.home).release == "fraud-detector-1"
    with pytest.raises(OSError):  # noqa: PT011 - whatever the filesystem says
        regions.publisher.step(NOW)
    before = read_followed(regions.west.home)
    assert before is not None
    regions.follower.step()
    assert read_routing(regions.west.home).release == "fraud-detector-2"
    after = read_followed(regions.west.home)
    assert after is not None
    assert (after.number, after.looked_at) == (before.number, before.looked_at)
    lake.unlink()
    (tmp_path / "away").rename(lake)
    assert regions.follow() == []
    assert read_routing(regions.west.home).release == "fraud-detector-1"


def test_a_region_that_follows_changes_its_kill_switch_alone(regions: Regions) -> None:
    publish_small_model(regions.first.home, version=1, seed=1)
    followed = regions.change(regions.first, threshold=0.65)
    assert regions.follow() == []
    with pytest.raises(FollowingError, match="the first region"):
        regions.change(regions.west, threshold=0.9)
    with pytest.raises(FollowingError, match="the first region"):
        return_to(regions.west.home, "fraud-detector-1", REASON, NOW)
    with pytest.raises(FollowingError, match="the first region"):
        Publisher(regions.west, regions.lake)
    with pytest.raises(FollowingError, match="follows no other"):
        Follower(regions.first, regions.lake, lambda: 0, regions.said.append)
    for region in ("", "east"):
        with pytest.raises(FollowingError, match="the home of the region west"):
            preflight(regions.west.model_copy(update={"region": region}))

    own = regions.change(regions.west, kill_switch="rules_only")
    assert (own.version, own.threshold, own.kill_switch) == (OWN_VERSIONS + 1, 0.65, "rules_only")
    newer = regions.change(regions.first, threshold=0.6)
    assert regions.follow() == []
    assert read_policy(regions.west.home) == own, "its own switch stands until it is turned off here"
    assert regions.change(regions.west, kill_switch="off") == newer
    assert read_policy(regions.west.home) == newer != followed
    assert regions.change(regions.west, kill_switch="off") == newer, "off already"

    everywhere = regions.change(regions.first, kill_switch="allow_all")
    assert regions.follow() == []
    assert read_policy(regions.west.home) == everywhere
    with pytest.raises(FollowingError, match="kill switch on"):
        regions.change(regions.west, kill_switch="off")


def test_the_record_in_the_lake_names_every_file(regions: Regions) -> None:
    publish_small_model(regions.first.home, version=1, seed=1)
    regions.publisher.step(NOW)
    said = read_publication(regions.lake)
    assert said is not None
    assert said.releases == {"fraud-detector-1": hashes(releases(regions.first.home) / "fraud-detector-1")}
    assert set(said.releases["fraud-detector-1"]) == {"model.ubj", "bundle.json"}


def test_a_region_shows_how_far_it_has_followed(regions: Regions) -> None:
    regions.change(regions.first, threshold=0.65)
    assert regions.follow() == []
    shown = {sample.name: sample.value for family in following(regions.west) for sample in family.samples}
    assert shown == {
        "fraud_region_publication": 1,
        "fraud_region_looked_timestamp_seconds": NOW.timestamp(),
        "fraud_region_problem": 0,
    }
    assert list(following(regions.first)) == []


def test_offsets_of_the_first_region_keep_their_name(regions: Regions) -> None:
    assert broker_name(regions.first) == "redis:fraud:inference_log"
    assert broker_name(regions.west) == "redis:fraud:inference_log@west"
