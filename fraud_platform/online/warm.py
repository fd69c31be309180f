"""Rebuilds the velocity sets from the lake: at the first start, after a loss of Redis, and for replay.

What belongs here: which recorded attempts count, and since when the store, and each entity in it, is then complete.
What does not: the sets' layout (`velocity`).
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import ibis
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from fraud_platform import schema
from fraud_platform.callers import DEFAULT_CALLER
from fraud_platform.features import tables
from fraud_platform.features.catalogue import DAY
from fraud_platform.features.offline import microseconds, open_engine
from fraud_platform.features.sequence import CLAMP_LOOKBACK_DAYS, sequence
from fraud_platform.inference_log.callers import with_callers
from fraud_platform.lake import Lake, days_between
from fraud_platform.online import velocity
from fraud_platform.online.epochs import put_epoch, velocity_epoch
from fraud_platform.online.shards import RedisClient, by_master
from fraud_platform.settings import Settings

Received = tuple[str, str, int]
"""One row: caller, transaction_id, and received_at in UTC microseconds."""

KEPT_DAYS = 4
"""Days of received_at put back. A payment received just after the last of them may have an event time 24 h back and
asks for the 48 h before that, less the 5 min that event times may be ahead."""

_BATCH = 2_000
_EPOCHS = "velocity_epochs"


@dataclass(frozen=True)
class History:
    """One entity's recorded attempts of one epoch."""

    since: int
    """The epoch: when it began, or 0 where no clock had jumped."""
    entries: list[int]
    """(effective time, cumulative count, cumulative sum) of each attempt, flat and ascending, counted from 0."""

    def arguments(self) -> list[bytes | int]:
        """Those of the seed script."""
        # a set that holds no attempt can tell its epoch by an entry before all of them that counts nothing
        nothing = [0, 0, 0] if self.since else []
        return [velocity.SET_EXPIRY_MS, velocity.carried(self.since), *nothing, *self.entries]


def warm_velocity(
    settings: Settings,
    lake: Lake,
    redis_client: RedisClient,
    last_day: date,
    *,
    complete: bool = True,
    now_us: int,
    key_prefix: bytes = b"",
    also: Sequence[Received] = (),
) -> velocity.Epoch:
    """Put this region's attempts of the lake's last days up to `last_day` before whatever the store has counted since.

    `complete`: the lake holds every attempt up to now, as it does before the first payment is served; otherwise windows
    that reach behind now stay null, since attempts after `last_day` were lost. `also`: as in `attempts`. An existing
    epoch is kept and nothing is written. Killed and repeated, it ends in the same state: the epoch is written last.
    """
    existing = velocity_epoch(redis_client, key_prefix)
    if existing is not None:
        return existing
    rows = attempts(settings, lake, last_day, also)
    end = int(np.datetime64(last_day, "us").astype(np.int64)) + DAY
    for entity in velocity.ENTITIES:
        _seed(redis_client, rows, entity, key_prefix, velocity.complete_after(end))
    _remember(redis_client, rows, end, key_prefix)
    since = _complete_since(lake, last_day) if complete else velocity.complete_after(now_us)
    epoch = velocity.Epoch(epoch=uuid.uuid4().hex, complete_since=since)
    if not key_prefix:
        # before the epoch stands: no decision may name one that nobody knows
        lake.write_record(f"{_EPOCHS}/{epoch.epoch}", {"warmed_until": last_day.isoformat()})
    put_epoch(redis_client, epoch, key_prefix)
    return epoch


def warmed_until(lake: Lake, epoch: str) -> date | None:
    """The last UTC day of received_at whose attempts were put back when an epoch began; None where none were."""
    record = lake.read_record(f"{_EPOCHS}/{epoch}")
    return None if record is None else date.fromisoformat(record["warmed_until"])


def attempts(settings: Settings, lake: Lake, last_day: date, also: Sequence[Received] = ()) -> pa.Table:
    """This region's counted attempts received in the KEPT_DAYS up to `last_day`, in processing order: caller,
    transaction_id, user_id, merchant_id, amount (what velocity adds: 0 where it is not known), received_at,
    received_us, both effective times and both epochs, as `sequence` has them (int64).

    also: duplicates that count as well, as they did before a decision came to stand for them."""
    first = last_day - timedelta(days=KEPT_DAYS - 1)
    engine = open_engine(settings, lake)
    read = days_between(first - timedelta(days=CLAMP_LOOKBACK_DAYS), last_day)
    rows = engine.daily(tables.RAW_TRANSACTIONS, read, schema.RAW_TRANSACTIONS)
    rows = rows.filter(ibis.coalesce(rows.region, schema.FIRST_REGION) == settings.region)
    if also:
        received = microseconds(rows.received_at).cast("string")
        name = ibis.coalesce(rows.caller, DEFAULT_CALLER) + ":" + rows.transaction_id + ":" + received
        told = [f"{caller}:{transaction_id}:{at}" for caller, transaction_id, at in also]
        rows = rows.mutate(is_duplicate=rows.is_duplicate & ~name.isin(told))
    rows = sequence(sequence(rows, "user"), "merchant").filter(lambda t: t.date >= ibis.literal(first))
    ordered = rows.order_by(list(schema.PROCESSING_ORDER))
    found = engine.run(
        ordered.select(
            "caller",
            "transaction_id",
            "user_id",
            "merchant_id",
            "user_effective_time",
            "merchant_effective_time",
            "user_counted_since",
            "merchant_counted_since",
            "received_at",
            received_us=microseconds(ordered.received_at),
            amount=ordered.amount.coalesce(0),
        )
    )
    return with_callers(lake, found)


def _complete_since(lake: Lake, last_day: date) -> int:
    """The effective time from which every attempt is among the kept days; 0 when they reach the start of history."""
    first = last_day - timedelta(days=KEPT_DAYS - 1)
    history = lake.days(tables.RAW_TRANSACTIONS)
    if not history or history[0] >= first:
        return 0
    return int(np.datetime64(first, "us").astype(np.int64)) + velocity.COUNTED_AHEAD + 1


def put_history(redis_client: RedisClient, key: bytes, history: History) -> None:
    """Make a set what one epoch of its entity had counted, whatever it holds."""
    for master, _ in by_master(redis_client, [key]):
        master.delete(key)
        master.eval(velocity.SEED_SCRIPT, 1, key, *history.arguments())


def _seed(redis_client: RedisClient, rows: pa.Table, entity: velocity.Entity, prefix: bytes, after_all: int) -> None:
    """One call of the seed script per entity."""
    grouped = list(_by_entity(rows, entity, after_all))
    keys = [velocity.set_key(entity, identifier, prefix) for identifier, _ in grouped]
    with tqdm(total=len(keys), desc=f"{entity} velocity", unit="key", disable=None) as bar:
        for master, positions in by_master(redis_client, keys):
            script = master.script_load(velocity.SEED_SCRIPT)
            pipe = master.pipeline(transaction=False)
            for number, position in enumerate(positions, 1):
                pipe.execute_command("EVALSHA", script, 1, keys[position], *grouped[position][1].arguments())  # type: ignore[no-untyped-call]
                if number % _BATCH == 0:
                    pipe.execute()
            pipe.execute()
            bar.update(len(positions))


def _by_entity(rows: pa.Table, entity: velocity.Entity, after_all: int) -> Iterator[tuple[str, History]]:
    """Per entity its attempts; where a clock jumped among them, only that since `after_all` none is missing: in which
    order their epochs came is not recorded."""
    encoded = rows.column(f"{entity}_id").combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    effective = rows.column(f"{entity}_effective_time").to_numpy()
    order = np.lexsort((effective, codes))
    bounds = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
    effective = effective[order]
    amounts = rows.column("amount").to_numpy()[order]
    since = rows.column(f"{entity}_counted_since").to_numpy()[order]
    for code, identifier in enumerate(encoded.dictionary.to_pylist()):
        own = slice(bounds[code], bounds[code + 1])
        if (since[own] == since[own][0]).all():
            yield identifier, history(int(since[own][0]), effective[own], amounts[own])
        else:
            yield identifier, History(after_all, [])


def history(since: int, effective: Sequence[int], amounts: Sequence[int]) -> History:
    """Attempts of one epoch of an entity by their effective times, ascending, and their amounts."""
    counts = np.arange(1, len(effective) + 1)
    return History(since, np.column_stack([effective, counts, np.cumsum(amounts)]).ravel().tolist())


def _remember(redis_client: RedisClient, rows: pa.Table, end: int, prefix: bytes) -> None:
    """Write the identities of attempts that a retry after `end`, UTC microseconds, may still repeat."""
    recent = rows.filter(pa.compute.greater(rows.column("received_us"), end - velocity.IDENTITY_LIFE))
    identities = [
        (
            velocity.identity_key(entity, row[f"{entity}_id"], row["caller"], row["transaction_id"], prefix),
            b"%d:%d" % (row["received_us"], row[f"{entity}_effective_time"])
            + velocity.carried(row[f"{entity}_counted_since"]),
        )
        for row in recent.to_pylist()
        for entity in velocity.ENTITIES
    ]
    for master, positions in by_master(redis_client, [key for key, _ in identities]):
        pipe = master.pipeline(transaction=False)
        for number, position in enumerate(positions, 1):
            key, value = identities[position]
            pipe.set(key, value, px=velocity.IDENTITY_EXPIRY_MS, nx=True)
            if number % _BATCH == 0:
                pipe.execute()
        pipe.execute()
