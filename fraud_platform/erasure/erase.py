"""Erasing one user: look, take out, look again.

What belongs here: the order of work and what is said of it. What does not: each store's own (`files`, `redis_keys`,
`postgres`, `policies`, `home`, `backups`), and the plain look at everything (`witness`).

The suppression record is written first: whoever imports meanwhile, or goes on after a kill, uses the same pseudonym.
Each step finds for itself what is left to do, so an erasure that was killed is completed by another one.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import psycopg

from fraud_platform.control.store import control_url
from fraud_platform.erasure import backups as kept
from fraud_platform.erasure import files, home, policies, postgres, redis_keys
from fraud_platform.erasure.names import SHORTEST, Names
from fraud_platform.erasure.person import identify, keep_under_way, under_way_path
from fraud_platform.erasure.suppression import pseudonym_of, read_suppression, suppress
from fraud_platform.erasure.witness import Sighting, Witness
from fraud_platform.identifiers import canonical
from fraud_platform.inference_log.process import drain
from fraud_platform.lake import open_lake
from fraud_platform.model.bundle import exclusive, releases
from fraud_platform.model.ledger import Change, append_change, ledger_file
from fraud_platform.online.embedded_postgres import ensure_postgres, postgres_folder
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.shards import connect_redis
from fraud_platform.recovery.backup import made_backups
from fraud_platform.settings import Settings

DRAIN_SECONDS = 60.0
CUT_SECONDS = 15.0
"""A closed segment is cut within ten seconds of being wholly in the lake, by whoever ships."""

OUT_OF_REACH = (
    "the bank's own exports, and files that a mapping reads: they are the bank's to change; an import makes the "
    "pseudonym of them, and so does the simulated bank",
    "what lies in Kafka until its retention ends, and an object store's older versions",
    "backups that were moved or copied, until they are deleted: name them with --backup where they lie",
    "freed pages and the write-ahead log of PostgreSQL: the next load replaces the table, the server its log",
    "a trained model: it holds trees, and no rows",
    "other homes that share the control store, which hold copies of the policies before: erase the user there too",
)
DELETED, CUT, BLANKED, SHOWN = "deleted", "cut once the lake has it", "written over", "told only"
ANONYMISED, RENAMED = "made the pseudonym's; device and location gone", "made the pseudonym's"
LISTED = "off the lists, by a new version; the pseudonym's in those before"
IN_BACKUP = "the same, with --backup"

_LOOKED_AT = (
    *("redis", "postgres", "inference_log", "feedback", "imports", "evaluate", "lake", "feast", "erasure", "policy"),
)
"""Folders of the home in which an erasure takes out what it finds: before it, a plain search does not add to that."""
_ADVICE = {
    "mlflow": "delete the run that holds it, then `mlflow gc`",
    "dagster": "delete the run that holds it: `dagster run delete`",
    "log": "delete the file, or the line",
    "inference_log": "cut once its worker has begun another segment: run this again then",
}
_ELSE = "take it out or delete it, then run this again"
_MAY_BE = "may be another thing's; not counted"


@dataclass(frozen=True)
class Store:
    """How often a store names the person."""

    name: str
    count: int
    fate: str


@dataclass(frozen=True)
class Look:
    """One look at everything."""

    names: Names
    stores: tuple[Store, ...]
    found: files.Found
    notes: tuple[str, ...]

    @property
    def total(self) -> int:
        """How often the person is named at all."""
        return sum(store.count for store in self.stores)


@dataclass(frozen=True)
class Erasure:
    """What was done."""

    pseudonym: str
    before: Look
    after: Look


def look(settings: Settings, user: str, *, backups: Sequence[Path] = (), plainly: bool = True) -> Look:
    """Read every store for a user. backups: folders that the home does not know of, or that were altered.

    plainly: also search all that is kept for the person's identifiers, by means that nothing here shares; without, only
    where no erasure takes anything out. Raises RedisUnavailableError, PostgresUnavailableError, ControlError.
    """
    root, user = settings.home, canonical(user)
    pseudonym = pseudonym_of(root, user)
    names = identify(settings, user, pseudonym)
    record = read_suppression(root)
    pseudonyms = [record.pseudonym(one) for one in names.users] if record is not None and pseudonym else []
    found = files.find(settings, names, pseudonyms)
    stores = [
        Store(name, count, DELETED if name in files.DELETED else ANONYMISED) for name, count in found.rows.items()
    ]
    with connect_redis(ensure_redis(settings)) as client:
        stores += [
            Store(f"Redis, {name}", count, DELETED) for name, count in redis_keys.count_keys(client, names).items()
        ]
        if settings.kafka_bootstrap is None:
            stores.append(Store("broker (Redis stream)", redis_keys.count_stream(client, settings, names), CUT))
    with psycopg.connect(ensure_postgres(settings)) as connection:
        stores.append(Store("PostgreSQL", postgres.count_rows(connection, names), DELETED))
    stores.append(Store("spool", home.count_spooled(root, names), CUT))
    stores.append(Store("policy", policies.count_lists(root, names), LISTED))
    if control_url(settings) is not None:
        stores.append(Store("control store", policies.count_words(settings, names), RENAMED))
    stores.append(Store("ledger", policies.count_lines(root, names), RENAMED))
    commented = sum(1 for _ in home.comments(root, found.payments, names))
    stores.append(Store("comments of feedback", commented, BLANKED))
    seen, notes = _plain_search(settings, names, pseudonym, backups, plainly=plainly)
    return Look(names, (*stores, *seen), found, notes)


def _plain_search(
    settings: Settings, names: Names, pseudonym: str | None, backups: Sequence[Path], *, plainly: bool
) -> tuple[list[Store], tuple[str, ...]]:
    """What a search of everything counts, and where it is, with what to do."""
    witness = Witness(names.users, names.telling_devices, alike=policies.lists_alike(settings.home, names))
    stores, notes = [], []
    for name, sightings, advice in _searches(settings, witness, pseudonym, backups, plainly=plainly):
        # where something else bears the same identifier, a plain search cannot tell them apart
        counted = [seen for seen in sightings if seen.typed or (seen.certain and not witness.alike)]
        stores.append(Store(name, len(counted), IN_BACKUP if name.startswith("backup") else SHOWN))
        notes += [f"{seen.place}: {advice(seen) if seen in counted else _MAY_BE}" for seen in sightings]
    given = {folder.absolute() for folder in backups}
    for folder, at in made_backups(settings.home).items():
        if folder not in given and not folder.exists():
            notes.append(f"the backup of {at} is not in {folder} any more: if it was moved, name it with --backup")
    if pseudonym is not None and (path := under_way_path(settings.home, pseudonym)).exists():
        notes.append(f"{path}: what this erasure has to know; deleted by the run that finds nothing left")
    short = [name for name in (*names.users, *names.telling_devices) if len(name.encode()) < SHORTEST]
    if short:
        notes.append(f"logs, comments on policies and databases were not searched for {short}: they hold it by chance")
    return stores, tuple(notes)


def _searches(
    settings: Settings, witness: Witness, pseudonym: str | None, backups: Sequence[Path], *, plainly: bool
) -> Iterator[tuple[str, list[Sighting], Callable[[Sighting], str]]]:
    """Per place its name, what was seen there, and what to do about it."""
    root, lake = settings.home, open_lake(settings)
    skipped = [postgres_folder(settings), *([Path(lake.root)] if lake.is_local else [])]
    if pseudonym is not None:
        skipped.append(under_way_path(root, pseudonym))
    if not plainly:
        skipped += [ledger_file(root), *(root / name for name in _LOOKED_AT)]
    if plainly:
        # first: it tells what else bears the identifier
        yield "lake, by a plain search", list(witness.lake(lake)), partial(_said, _ELSE)
    yield "home, by a plain search", list(witness.folder(root, without=skipped)), partial(_of_home, root)
    if plainly:
        with connect_redis(ensure_redis(settings)) as client:
            yield "Redis, by a plain search", list(witness.redis(client)), partial(_said, _ELSE)
        with psycopg.connect(ensure_postgres(settings)) as connection:
            yield "PostgreSQL, by a plain search", list(witness.postgres(connection)), partial(_said, _ELSE)
        if (url := control_url(settings)) is not None:
            with psycopg.connect(url) as connection:
                seen = list(witness.postgres(connection, schema="fraud_control"))
            yield "control store, by a plain search", seen, partial(_said, _ELSE)
    given = {folder.absolute() for folder in backups}
    for folder in sorted(given | {folder for folder in made_backups(root) if folder.exists()}):
        advice = "delete this backup and make another" if folder in given else f"run this with --backup {folder}"
        yield f"backup {folder}", list(witness.folder(folder)), partial(_said, advice)


def _of_home(root: Path, seen: Sighting) -> str:
    return _ADVICE.get(Path(seen.place).relative_to(root).parts[0], _ELSE)


def _said(advice: str, _: Sighting) -> str:
    return advice


def erase(settings: Settings, user: str, *, who: str, now: datetime, backups: Sequence[Path] = ()) -> Erasure:
    """Take a user out of everything, and out of these backups. now: with a time zone.

    Raises RedisUnavailableError, PostgresUnavailableError, PolicyError, ControlError, BundleError, BackupError,
    OSError; what was done until then stays done.
    """
    before = look(settings, user, backups=backups, plainly=False)
    names = before.names
    pseudonyms = suppress(settings.home, names, int(now.timestamp() * 1_000_000))
    pseudonym = pseudonyms[names.user]
    keep_under_way(settings.home, pseudonym, names)
    _note(settings, pseudonym, "begun", before, who, now)
    # before the rest: what is decided from here on follows no list that names the person
    policies.take_off(settings, names, pseudonyms, who, now)
    drained = drain(settings, DRAIN_SECONDS)
    with connect_redis(ensure_redis(settings)) as client:
        redis_keys.delete_keys(client, names)
    with psycopg.connect(ensure_postgres(settings), autocommit=True) as connection:
        postgres.delete_rows(connection, names)
    found = files.find(settings, names, pseudonyms.values())
    files.take_out(found, names, pseudonyms)
    home.blank_comments(settings.home, found.payments, names)
    for folder in backups:
        kept.take_out(settings.home, folder, found.payments, names, pseudonyms, who, now)
    redis_keys.forget_on_disk(settings)
    if drained:
        _wait_for_the_cut(settings, names)
    after = look(settings, user, backups=backups)
    if after.total == 0:
        under_way_path(settings.home, pseudonym).unlink()
    _note(settings, pseudonym, "done" if after.total == 0 else "incomplete", after, who, now)
    return Erasure(pseudonym, before, after)


def _wait_for_the_cut(settings: Settings, names: Names) -> None:
    until = time.monotonic() + CUT_SECONDS
    while home.count_spooled(settings.home, names) and time.monotonic() < until:
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
