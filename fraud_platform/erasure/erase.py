"""Erasing one user: look, take out, look again.

What belongs here: the order of work and what is said of it. What does not: each store's own (`files`, `redis_keys`,
`postgres`, `policies`, `home`).

The suppression record is written first: whoever imports meanwhile, or goes on after a kill, uses the same pseudonym.
Each step finds for itself what is left to do, so an erasure that was killed is completed by another one.
"""

import time
from dataclasses import dataclass
from datetime import datetime

import psycopg

from fraud_platform.erasure import files, home, policies, postgres, redis_keys
from fraud_platform.erasure.suppression import pseudonym_of, suppress
from fraud_platform.inference_log.process import drain
from fraud_platform.model.bundle import exclusive, releases
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.online.embedded_postgres import ensure_postgres
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.shards import connect_redis
from fraud_platform.settings import Settings

DRAIN_SECONDS = 60.0
CUT_SECONDS = 15.0
"""A closed segment is cut within ten seconds of being wholly in the lake, by whoever ships."""

OUT_OF_REACH = (
    "the bank's own exports, and files that a mapping reads: they are the bank's to change; an import makes the "
    "pseudonym of them, and so does the simulated bank",
    "what lies in Kafka until its retention ends, backups, and an object store's older versions",
    "freed pages and the write-ahead log of PostgreSQL: the next load replaces the table, the server its log",
    "a trained model: it holds trees, and no rows",
)
DELETED, CUT, BLANKED, SHOWN = "deleted", "cut once the lake has it", "written over", "told only"
ANONYMISED, RENAMED = "made the pseudonym's; device and location gone", "made the pseudonym's"
LISTED = "off the lists, by a new version; the pseudonym's in those before"


@dataclass(frozen=True)
class Store:
    """How often a store names the user."""

    name: str
    count: int
    fate: str


@dataclass(frozen=True)
class Look:
    """One look at everything."""

    stores: tuple[Store, ...]
    found: files.Found
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """How often the user is named at all."""
        return sum(store.count for store in self.stores)


@dataclass(frozen=True)
class Erasure:
    """What was done."""

    pseudonym: str
    before: Look
    after: Look


def look(settings: Settings, user: str) -> Look:
    """Read every store for a user. Raises RedisUnavailableError, PostgresUnavailableError."""
    root = settings.home
    found = files.find(settings, user, pseudonym_of(root, user))
    stores = [
        Store(name, count, DELETED if name in files.DELETED else ANONYMISED) for name, count in found.rows.items()
    ]
    with connect_redis(ensure_redis(settings)) as client:
        stores += [
            Store(f"Redis, {name}", count, DELETED) for name, count in redis_keys.count_keys(client, user).items()
        ]
        if settings.kafka_bootstrap is None:
            stores.append(Store("broker (Redis stream)", redis_keys.count_stream(client, settings, user), CUT))
    with psycopg.connect(ensure_postgres(settings)) as connection:
        stores.append(Store("PostgreSQL", postgres.count_rows(connection, user), DELETED))
    stores.append(Store("spool", home.count_spooled(root, user), CUT))
    stores.append(Store("policy", policies.count_lists(root, user), LISTED))
    stores.append(Store("ledger", policies.count_lines(root, user), RENAMED))
    stores.append(Store("comments of feedback", sum(1 for _ in home.comments(root, found.payments)), BLANKED))
    notes: tuple[str, ...] = ()
    if len(user) >= home.SHORTEST:
        others = home.other_files(root, settings.lake, user)
        stores.append(Store("other files of the home", len(others), SHOWN))
        notes = tuple(str(path) for path in others)
    else:
        notes = (f"logs and databases were not searched: they hold {user!r} by chance",)
    return Look(tuple(stores), found, notes)


def erase(settings: Settings, user: str, *, who: str, now: datetime) -> Erasure:
    """Take a user out of everything. now: with a time zone.

    Raises RedisUnavailableError, PostgresUnavailableError, PolicyError, OSError; what was done until then stays done.
    """
    before = look(settings, user)
    pseudonym = suppress(settings.home, user, int(now.timestamp() * 1_000_000)).pseudonym
    _note(settings, pseudonym, "begun", before, who, now)
    # before the rest: what is decided from here on follows no list that names the user
    policies.take_off(settings, user, pseudonym, who, now)
    drained = drain(settings, DRAIN_SECONDS)
    with connect_redis(ensure_redis(settings)) as client:
        redis_keys.delete_keys(client, user)
    with psycopg.connect(ensure_postgres(settings), autocommit=True) as connection:
        postgres.delete_rows(connection, user)
    found = files.find(settings, user, pseudonym)
    files.take_out(found, user, pseudonym)
    home.blank_comments(settings.home, found.payments)
    redis_keys.forget_on_disk(settings)
    if drained:
        _wait_for_the_cut(settings, user)
    after = look(settings, user)
    _note(settings, pseudonym, "done" if after.total == 0 else "incomplete", after, who, now)
    return Erasure(pseudonym, before, after)


def _wait_for_the_cut(settings: Settings, user: str) -> None:
    until = time.monotonic() + CUT_SECONDS
    while home.count_spooled(settings.home, user) and time.monotonic() < until:
        time.sleep(0.5)


def _note(settings: Settings, pseudonym: str, state: str, seen: Look, who: str, now: datetime) -> None:
    """A line of the ledger: begun before anything is taken out, and how it ended."""
    change = Change(
        at=now,
        who=who,
        why="a user is erased",
        what="erase",
        to={"user": pseudonym, "state": state},
        evidence={store.name: store.count for store in seen.stores if store.count},
    )
    with exclusive(releases(settings.home) / ".promotion.lock"):
        append_change(settings.home, change)
