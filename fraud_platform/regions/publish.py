"""The first region says in the lake who decides, so that the others can follow.

What belongs here: what is written, in which order. What does not: when (`fraud_platform.cli.region`). No change waits
for it: a roll-back is in force here whether or not the lake can be reached, and is said as soon as it can.
"""

from datetime import datetime

from fraud_platform.decision.policy_record import read_policy
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import NoReleaseError, releases
from fraud_platform.model.following import refuse_following
from fraud_platform.model.routing import Routing, read_routing
from fraud_platform.regions.publication import (
    RECORD,
    Publication,
    encoded,
    file_name,
    hashes,
    read_publication,
    sha256,
)
from fraud_platform.settings import Settings


class Publisher:
    """Says who decides whenever that has changed; `step` costs two small files where it has not."""

    def __init__(self, settings: Settings, lake: Lake) -> None:
        """Raises FollowingError in a home that follows another."""
        refuse_following(settings.home, "says who decides in other regions")
        self._home = settings.home
        self._lake = lake
        self._said: Publication | None = None

    def step(self, now: datetime) -> Publication | None:
        """What was published, None where nothing had changed. now: with a time zone.

        Raises BundleError, PolicyError, OSError; then the next step does it.
        """
        routing, policy = self._routing(), read_policy(self._home)
        if self._said is not None and (self._said.routing, self._said.policy) == (routing, policy):
            return None
        path = self._lake.document_path(RECORD)
        seen = self._lake.seen(path)
        last = read_publication(self._lake)
        named = {name: hashes(releases(self._home) / name) for name in _named(routing)}
        for name, files in named.items():
            for file, expected in files.items():
                self._put(name, file, expected)
        wanted = Publication(
            number=last.number + 1 if last else 1, published_at=now, routing=routing, policy=policy, releases=named
        )
        if last is not None and last.says() == wanted.says():
            self._said = last
            return None
        if not self._lake.replace(path, encoded(wanted), seen):
            return None  # another process of this home was first: the next step sees what it said
        self._said = wanted
        return wanted

    def _routing(self) -> Routing | None:
        try:
            return read_routing(self._home)
        except NoReleaseError:
            return None

    def _put(self, release: str, file: str, expected: str) -> None:
        """A file of a release is written once, and again only where the lake has other bytes than this home."""
        name = file_name(release, file)
        there = self._lake.document(name)
        if there is None or sha256(there) != expected:
            self._lake.write_document(name, (releases(self._home) / release / file).read_bytes())


def _named(routing: Routing | None) -> list[str]:
    return [] if routing is None else [name for name in (routing.release, routing.challenger) if name]
