"""Finding out whom an erasure takes out: the spellings of the user's identifier, and the devices that are theirs alone.

What belongs here: asking every row for both, and keeping the answer while an erasure is under way. What does not:
looking for them afterwards (`mentions`). Rows lose the device first of all, so an erasure that was killed could not ask
them again: the answer is kept in `<home>/erasure/`, mode 0600, until nothing is left.

A device is the user's alone when no row of another user has it. A shared one stays, on the policy's lists too: it says
as much of the other.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fraud_platform.erasure.files import lakes
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.suppression import PREFIX, suppression_path
from fraud_platform.inference_log.record import DecisionRecord, decode_record
from fraud_platform.inference_log.spool import Frames, segments
from fraud_platform.lake import Lake
from fraud_platform.model.bundle import replace_file
from fraud_platform.settings import Settings

_BATCH_ROWS = 65_536


class UnderWay(msgspec.Struct, frozen=True):
    """What an erasure that has begun knew of the person."""

    spellings: tuple[str, ...]
    devices: tuple[str, ...]


def under_way_path(home: Path, pseudonym: str) -> Path:
    """Where it is kept meanwhile."""
    return suppression_path(home).with_name(f"{pseudonym}.underway.json")


def keep_under_way(home: Path, pseudonym: str, names: Names) -> None:
    """Keep it, durably."""
    known = UnderWay(tuple(names.users), tuple(sorted(names.devices)))
    path = under_way_path(home, pseudonym)
    replace_file(path, msgspec.json.encode(known))
    path.chmod(0o600)


def read_under_way(home: Path, pseudonym: str | None) -> UnderWay:
    """What an erasure that was killed has left; nothing where none was."""
    if pseudonym is not None and (path := under_way_path(home, pseudonym)).exists():
        return msgspec.json.decode(path.read_bytes(), type=UnderWay)
    return UnderWay((), ())


def identify(settings: Settings, user: str, pseudonym: str | None) -> Names:
    """Ask the lake's rows and the spool. pseudonym: of an erasure before. Reads everything twice, few columns of it."""
    known = read_under_way(settings.home, pseudonym)
    names = Names(user)
    spellings, devices = set(known.spellings), set(known.devices)
    for lake, path in _files(settings):
        for found, device in _own(lake, path, names):
            spellings.add(found)
            devices |= {device} if device else set()
    for record in _spooled(settings.home):
        if names.is_user(record.request.user_id):
            spellings.add(record.request.user_id)
            devices |= {record.request.device_id} if record.request.device_id else set()
    names = Names(user, frozenset(spellings))
    if devices:
        shared = {device for lake, path in _files(settings) for device in _of_others(lake, path, names, devices)}
        shared |= {
            record.request.device_id
            for record in _spooled(settings.home)
            if record.request.device_id in devices and not names.is_user(record.request.user_id)
        }
        devices -= shared
    return Names(user, frozenset(spellings), frozenset(devices))


def _files(settings: Settings) -> Iterator[tuple[Lake, str]]:
    for lake in lakes(settings).values():
        for path in lake.every_file(".parquet"):
            yield lake, path


def _spooled(home: Path) -> Iterator[DecisionRecord]:
    for path in segments(home):
        try:
            for payload in Frames(path):
                yield decode_record(payload)
        except FileNotFoundError:
            # cut meanwhile: the lake has it
            continue


def _batches(lake: Lake, path: str, *wanted: str) -> Iterator[pa.Table]:
    """Those of the columns that a file with user_id has; none of a file without it."""
    with lake.open_file(path) as file:
        parquet = pq.ParquetFile(file)
        columns = [name for name in wanted if name in parquet.schema_arrow.names]
        if "user_id" in columns and pa.types.is_string(parquet.schema_arrow.field("user_id").type):
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=columns):
                yield pa.table(batch)


def _own(lake: Lake, path: str, names: Names) -> Iterator[tuple[str, str | None]]:
    """The user's spelling and device in each row that is theirs."""
    for rows in _batches(lake, path, "user_id", "device_id", "record"):
        spelled = [user for user in pc.unique(rows["user_id"]).to_pylist() if user is not None and names.is_user(user)]
        if not spelled:
            continue
        mine = rows.filter(pc.fill_null(pc.is_in(rows["user_id"], pa.array(spelled)), False))
        devices = mine["device_id"].to_pylist() if "device_id" in mine.column_names else []
        devices += (
            [decode_record(one).request.device_id for one in mine["record"].to_pylist()]
            if ("record" in mine.column_names)
            else []
        )
        yield from ((user, None) for user in spelled)
        yield from ((names.user, device) for device in devices)


def _of_others(lake: Lake, path: str, names: Names, devices: set[str]) -> Iterator[str]:
    """Those of the devices that a row of another user has."""
    for rows in _batches(lake, path, "user_id", "device_id", "record"):
        theirs = pc.invert(pc.is_in(rows["user_id"], pa.array(names.users)))
        theirs = pc.and_(theirs, pc.invert(pc.starts_with(rows["user_id"], PREFIX)))
        others = rows.filter(pc.fill_null(theirs, False))
        if "device_id" in others.column_names:
            yield from set(pc.unique(others["device_id"]).to_pylist()) & devices
        if "record" in others.column_names:
            for device in devices:
                held = others.filter(pc.fill_null(pc.match_substring(others["record"], device.encode()), False))
                if any(decode_record(one).request.device_id == device for one in held["record"].to_pylist()):
                    yield device
