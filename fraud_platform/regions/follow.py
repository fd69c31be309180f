"""A region follows the first: who decides, and the snapshot that is in force, pulled from the lake. The labels that
callers send to it go the other way.

What belongs here: what is taken over, and what is refused. What does not: how a change is made (`model.release`,
`decision.policy_change`), a load is done (`online.snapshot_load`), how often (`fraud_platform.cli.region`).

Whatever cannot be had leaves in force what is: the lake may be away, a file damaged or half there. Each part is taken
by itself, so that a damaged model does not hold back a kill switch, and the next step tries what is missing again.
"""

import shutil
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from fraud_platform.decision.policy_change import take_policy
from fraud_platform.features.catalogue import CATALOGUE, DAY
from fraud_platform.features.tables import RAW_TRANSACTIONS
from fraud_platform.inference_log.search import decided_since
from fraud_platform.inference_log.table import LogTable
from fraud_platform.ingest.feedback import LabelSender
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import DECIDING, Bundle, BundleError, install, release_folder
from fraud_platform.model.following import Followed, FollowingError, check_region, read_followed, write_followed
from fraud_platform.model.release import Reason, take_over
from fraud_platform.model.served_sets import sets_in_force
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.epochs import velocity_epoch
from fraud_platform.online.other_views import OtherView, load_other, loadable
from fraud_platform.online.packed import VIEWS, PackedView
from fraud_platform.online.shards import connect_redis
from fraud_platform.online.snapshot_load import last_load, load_snapshot_feast
from fraud_platform.online.snapshot_record import in_force
from fraud_platform.online.warm import warm_velocity
from fraud_platform.regions.publication import (
    FILES,
    RECORD,
    Publication,
    file_name,
    hashes,
    read_publication,
    sha256,
)
from fraud_platform.settings import Settings

WHO = "region follow"
"""In the ledger."""
NOTE_AGAIN = timedelta(seconds=10)
"""How often it is noted that nothing is new."""
_COPY = ".release-"
"""How a folder begins in which a release is verified before it is one."""


class ArtefactError(RuntimeError):
    """A file in the lake is not what the first region said, or not there; what is in force here stays."""


class Follower:
    """Follows the first region for one home. Call its parts again and again, from one thread."""

    def __init__(self, settings: Settings, lake: Lake, clock: Callable[[], int], said: Callable[[str], None]) -> None:
        """clock: UTC microseconds. said: told of each thing that was taken over.

        Raises FollowingError where the settings name no region, or another one than this home's.
        """
        if not settings.region:
            raise FollowingError("this is the first region, which follows no other: set FRAUD_REGION")
        check_region(settings.home, settings.region)
        self._settings = settings
        self._lake = lake
        self._clock = clock
        self._said = said
        self._labels = LabelSender(settings.home, lake, settings.region)
        for left_behind in settings.home.glob(f"{_COPY}*"):
            shutil.rmtree(left_behind)
        self._of_store: list[Exception] = []
        self._verified: dict[str, dict[str, str]] = {}
        self._noted = read_followed(settings.home) or Followed(region=settings.region, looked_at=self._now())
        write_followed(settings.home, self._noted)

    def step(self, *, store: bool = True) -> list[Exception]:
        """Take over whatever has changed; returns why what could not is not. store: look at Redis and labels, too."""
        problems: list[Exception] = []

        def attempt(work: Callable[[], None], failed: list[Exception] = problems) -> None:
            try:
                work()
            except Exception as error:  # noqa: BLE001 - what is in force stays so; it is told, and tried again
                failed.append(error)

        found: list[Publication] = []
        attempt(lambda: found.append(self._publication()))
        publication = found[0] if found else None
        if publication is not None:
            attempt(lambda: self._take_policy(publication))
            attempt(lambda: self._take_routing(publication))
        if store and publication is not None:
            self._of_store = []
            for view in VIEWS:
                attempt(partial(self._take_snapshot, view), self._of_store)
            for other in loadable(sets_in_force(self._settings.home)):
                attempt(partial(self._take_other, other), self._of_store)
            attempt(self._warm, self._of_store)
            attempt(self._send_labels, self._of_store)
        problems += self._of_store
        self._note(publication, problems)
        return problems

    def _note(self, publication: Publication | None, problems: list[Exception]) -> None:
        before, now = self._noted, self._now()
        after = Followed(
            region=before.region,
            number=publication.number if publication else before.number,
            # while the lake is away it stands still, and whoever watches goes by that
            looked_at=now if publication else before.looked_at,
            problem="; ".join(map(str, problems)) or None,
        )
        said = (after.number, after.problem) != (before.number, before.problem)
        if said or after.looked_at - before.looked_at >= NOTE_AGAIN:
            write_followed(self._settings.home, after)
            self._noted = after

    def _publication(self) -> Publication:
        publication = read_publication(self._lake)
        if publication is None:
            raise ArtefactError(
                f"{RECORD} is not in {self._settings.lake}: it is not the first region's lake, or nothing was "
                "published there yet, which `fraud-platform region publish` does"
            )
        return publication

    def _take_policy(self, publication: Publication) -> None:
        if publication.policy is None:
            return
        taken = take_policy(self._settings, publication.policy, WHO, _why(publication), self._now())
        if taken:
            self._said(f"policy {publication.policy.version} is in force")

    def _take_routing(self, publication: Publication) -> None:
        routing = publication.routing
        if routing is None:
            return
        for name in (routing.release, routing.challenger):
            if name:
                self._have(name, publication.releases.get(name, {}))
        if take_over(self._settings.home, routing, Reason(who=WHO, why=_why(publication)), self._now()):
            beside = f", {routing.challenger} beside it ({routing.stage})" if routing.challenger else ""
            self._said(f"{routing.release} is in force{beside}")

    def _have(self, name: str, expected: dict[str, str]) -> None:
        """See to it that this home has a release, bit for bit. Raises ArtefactError, BundleError, OSError."""
        folder = release_folder(self._settings.home, name)
        if self._verified.get(name) == expected and folder.is_dir():
            return
        if not folder.is_dir():
            self._copy(name, expected)
        Bundle.load(folder)
        # the card is for people, and one that is there is left alone
        wanted, found = ({name: each.get(name) for name in DECIDING} for each in (expected, hashes(folder)))
        if wanted != found:
            raise BundleError(f"{folder} differs from the first region's release {name}; move it away")
        self._verified[name] = expected

    def _copy(self, name: str, expected: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix=_COPY, dir=self._settings.home) as temporary:
            for file, expected_hash in expected.items():
                payload = self._lake.document(file_name(name, file))
                if payload is None or file not in FILES:
                    raise ArtefactError(f"{file_name(name, file)} is not in the lake")
                if sha256(payload) != expected_hash:
                    raise ArtefactError(
                        f"{file_name(name, file)} in the lake has SHA-256 {sha256(payload)}, the first region says "
                        f"{expected_hash}: it is not installed. `fraud-platform region publish --once` there writes it "
                        "again"
                    )
                (Path(temporary) / file).write_bytes(payload)
            if Bundle.load(Path(temporary)).name != name:
                raise ArtefactError(f"releases/{name} in the lake holds another release")
            install(self._settings.home, Path(temporary))
        self._said(f"{name} is here, its files as the first region has them")

    def _take_snapshot(self, view: PackedView) -> None:
        """Load what the first region has in force: it was checked there, and a load again renews its age here too."""
        wanted = last_load(self._lake, view)
        if wanted is None:
            return
        if wanted.catalogue_hash != CATALOGUE.hash:
            raise BundleError(f"{view.name}: the first region computes catalogue {wanted.catalogue_hash}, not this one")
        with connect_redis(ensure_redis(self._settings)) as redis_client:
            current = in_force(redis_client, view)
        if current is not None and (current.snapshot, current.follows) == (wanted.snapshot, wanted.loaded_at):
            return
        record = load_snapshot_feast(
            self._settings, self._lake, view, wanted.snapshot, now=self._clock, force=True, follows=wanted.loaded_at
        )
        self._said(f"{view.name}: {record.rows:,} rows of snapshot {record.snapshot} are in force")

    def _take_other(self, other: OtherView) -> None:
        """The same of a view of another set, which a release stands on here."""
        settings, lake = self._settings, self._lake
        wanted = last_load(lake, other.view)
        if wanted is None or self._clock() - wanted.visible_from > settings.online_ttl_days * DAY:
            # the first region has given it up, and what it had last would pass for new here
            return
        with connect_redis(ensure_redis(settings)) as redis_client:
            current = in_force(redis_client, other.view)
            if current is not None and (current.snapshot, current.follows) == (wanted.snapshot, wanted.loaded_at):
                return
            record = load_other(
                settings, lake, redis_client, other, wanted.snapshot, self._clock, follows=wanted.loaded_at
            )
        self._said(f"{other.view.name}: {record.rows:,} rows of snapshot {record.snapshot} are in force")

    def _warm(self) -> None:
        """Velocity of this region's own attempts, where Redis holds none."""
        settings, lake = self._settings, self._lake
        with connect_redis(ensure_redis(settings)) as redis_client:
            if velocity_epoch(redis_client) is not None:
                return
            days = lake.days(RAW_TRANSACTIONS)
            if not days:
                return
            lost = decided_since(settings.home, LogTable(lake), days[-1], settings.region)
            epoch = warm_velocity(settings, lake, redis_client, days[-1], complete=not lost, now_us=self._clock())
        self._said(f"velocity is complete since {datetime.fromtimestamp(epoch.complete_since / 1e6, UTC):%F %T} UTC")

    def _send_labels(self) -> None:
        if self._labels.step():
            self._said("labels that arrived here are in the lake")

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock() / 1e6, UTC)


def _why(publication: Publication) -> str:
    return f"publication {publication.number} of the first region"
