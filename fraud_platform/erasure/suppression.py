"""Who was erased: pseudonyms that only the home's key leads to, so that an import does not bring a user back.

What belongs here: the file `<home>/erasure/suppressed.json`, and a source without the erased. What does not: what
becomes of rows (`rows`).

A pseudonym is an HMAC of an identifier, a user's or that of a device that was theirs alone, under a random key of this
home: nobody computes it, or the identifier from it, without the key. Whoever has the key can confirm a guess; that is
what an import does. Destroying the file makes every pseudonym final, at the price that an import knows the erased no
more.
"""

import hmac
import os
import re
import secrets
import shutil
import unicodedata
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from urllib.parse import unquote, unquote_plus

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fraud_platform.erasure.mentions import owned, texts_of
from fraud_platform.erasure.names import Names, plain
from fraud_platform.erasure.normalised import may_differ, normalised
from fraud_platform.erasure.rows import anonymised
from fraud_platform.identifiers import canonical
from fraud_platform.ingest.source import Source
from fraud_platform.model.bundle import exclusive
from fraud_platform.versions import LATER

PREFIX = "erased-"
_DIGITS = 24
_WORDS = 4
"""Words of the longest identifier, such as a name or an address, that is found inside a text."""
_WORD = re.compile(r"[\w-]+")
_ESCAPED = re.compile(r"\\(?:u([0-9a-fA-F]{4})|[nrtbf])")
_SOURCE_ROW = "source_row"
"""A rejected row as it stood in its source, JSON; see `ingest.standardize`."""


class Erased(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One user, by pseudonym."""

    pseudonym: str
    at: int
    """UTC microseconds of the erasure: what an import brings of before it is made the pseudonym's."""
    devices: tuple[str, ...] = ()
    """Pseudonyms of the devices that were theirs alone."""


class Suppression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The home's key and everybody who was erased. A new field is written only where it is set; a version of before
    that does not know one refuses the record, rather than to let an erased person in again."""

    key: str
    """256 random bits, hex."""
    erased: tuple[Erased, ...] = ()

    def pseudonym(self, identifier: str) -> str:
        """The name that stands in the place of a user or device."""
        # a rejected row may hold half of a character, which is no one's name
        name = identifier.encode(errors="surrogatepass")
        return PREFIX + hmac.digest(bytes.fromhex(self.key), name, "sha256").hex()[:_DIGITS]


def suppression_path(home: Path) -> Path:
    """Where a home keeps the record."""
    return home / "erasure" / "suppressed.json"


def read_suppression(home: Path) -> Suppression | None:
    """The record; None where nobody was erased. Raises OSError, msgspec.MsgspecError."""
    try:
        payload = suppression_path(home).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(payload, type=Suppression)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(f"{suppression_path(home)}: {error}; {LATER}") from error


def pseudonym_of(home: Path, user: str) -> str | None:
    """The name in an erased user's place; None for one who was not erased."""
    record = read_suppression(home)
    if record is None:
        return None
    name = record.pseudonym(user)
    return name if any(entry.pseudonym == name for entry in record.erased) else None


def suppress(home: Path, names: Names, now: int) -> dict[str, str]:
    """Note that a person is erased, durably; again, the moment moves and the pseudonyms stay. now: UTC microseconds.

    Returns the pseudonym of each spelling of the user's identifier and of each device that is theirs alone.
    """
    path = suppression_path(home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive(path.with_suffix(".lock")):
        record = read_suppression(home) or Suppression(key=secrets.token_hex(32))
        known = {entry.pseudonym: entry for entry in record.erased}
        # as rows of before the rule of identity have it, and as an import brings it
        devices = {record.pseudonym(form) for device in names.devices for form in (device, canonical(device))}
        for user in names.users:
            pseudonym = record.pseudonym(user)
            before = known.pop(pseudonym).devices if pseudonym in known else ()
            known[pseudonym] = Erased(pseudonym=pseudonym, at=now, devices=tuple(sorted({*before, *devices})))
        written = msgspec.structs.replace(record, erased=tuple(known.values()))
        temporary = path.with_suffix(".tmp")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(written), indent=2))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    return {identifier: record.pseudonym(identifier) for identifier in (*names.users, *names.devices)}


def carry_suppression(home: Path, other: Path) -> None:
    """Let another home that is built from the same files know who was erased."""
    if suppression_path(home).exists():
        suppression_path(other).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        shutil.copy2(suppression_path(home), suppression_path(other))


def rewrite_without_erased(path: Path, record: Suppression | None) -> None:
    """The same for a file of EXPORT rows, one row group at a time; not atomic, so for a file that nobody reads yet."""
    if record is None:
        return
    changed = path.with_suffix(".without")
    with pq.ParquetFile(path) as old, pq.ParquetWriter(changed, old.schema_arrow, compression="zstd") as new:
        for group in range(old.metadata.num_row_groups):
            rows = without_erased(old.read_row_group(group), record)
            new.write_table(rows, row_group_size=max(1, rows.num_rows))
    changed.replace(path)


def without_erased(rows: pa.Table, record: Suppression | None) -> pa.Table:
    """EXPORT rows in which everybody who was erased after they were received bears the pseudonym alone.

    A rejected row's own text that names one of them, in whatever place, is left out; so is a device that was theirs
    alone where the row tells no user. Costs some 20 µs for each word of each rejected row.
    """
    if record is None or not rows.num_rows:
        return rows
    known = {entry.pseudonym: entry.at for entry in record.erased}
    devices = {device for entry in record.erased for device in entry.devices}
    users = pc.unique(rows["user_id"]).to_pylist()
    for user in users:
        erased_at = (
            None if user is None else known.get(record.pseudonym(user), known.get(record.pseudonym(plain(user))))
        )
        if erased_at is not None:
            names = Names(user, frozenset({user}))
            theirs = owned(rows, names) & (_received(rows) < erased_at)
            rows = anonymised(rows, theirs, names, {user: record.pseudonym(user)})
    if devices:
        rows = _without_devices(rows, record, devices)
    if _SOURCE_ROW in rows.column_names:
        rows = _without_texts(rows, record, known.keys() | devices)
    return rows


def _without_devices(rows: pa.Table, record: Suppression, devices: set[str]) -> pa.Table:
    """Where no user is told."""
    nobody = pc.is_null(rows["user_id"])
    found = pc.unique(rows["device_id"].filter(nobody)).to_pylist()
    erased = [device for device in found if device is not None and record.pseudonym(device) in devices]
    theirs = pc.and_(nobody, pc.fill_null(pc.is_in(rows["device_id"], pa.array(erased, pa.string())), False))
    for name in ("device_id", "latitude", "longitude"):
        position = rows.schema.get_field_index(name)
        column = pc.if_else(theirs, pa.scalar(None, rows.schema.field(position).type), rows[name])
        rows = rows.set_column(position, rows.schema.field(position), column)
    return rows


def _without_texts(rows: pa.Table, record: Suppression, erased: Set[str]) -> pa.Table:
    position = rows.schema.get_field_index(_SOURCE_ROW)
    texts = [
        None if text is None or any(record.pseudonym(word) in erased for word in _identifiers(text)) else text
        for text in rows[_SOURCE_ROW].to_pylist()
    ]
    return rows.set_column(position, rows.schema.field(position), pa.array(texts, pa.string()))


def _identifiers(row: str) -> set[str]:
    """Whatever may be an identifier in a rejected row's text: runs of up to `_WORDS` words, escapes undone."""
    found: set[str] = set()
    for text in texts_of(row):
        # a line that is no JSON may have been some
        unescaped = _ESCAPED.sub(lambda match: chr(int(match[1], 16)) if match[1] else " ", text)
        visible = unicodedata.normalize("NFC", normalised(text).text) if may_differ(text) else text
        for form in {text, unescaped, unquote(text), unquote_plus(text), visible}:
            found.add(form)
            words = [match.span() for match in _WORD.finditer(form)]
            for first, (begin, _) in enumerate(words):
                found |= {form[begin:end] for _, end in words[first : first + _WORDS]}
    return found | {plain(each) for each in found}


def _received(rows: pa.Table) -> NDArray[np.int64]:
    """UTC microseconds; a row that tells no time was received before everything."""
    at = pc.coalesce(rows["received_at"], rows["timestamp"]).cast(pa.int64())
    received: NDArray[np.int64] = pc.fill_null(at, np.iinfo(np.int64).min).to_numpy()
    return received


@dataclass(frozen=True)
class WithoutErased:
    """A source in which the erased bear their pseudonyms; everything else is the source's own."""

    source: Source
    home: Path

    @property
    def name(self) -> str:
        """The source's."""
        return self.source.name

    def first_day(self) -> date:
        """The source's."""
        return self.source.first_day()

    def last_day(self) -> date | None:
        """The source's."""
        return self.source.last_day()

    def transactions(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's, without the erased; the record is read when a day is served."""
        for day, rows in self.source.transactions(days):
            yield day, without_erased(rows, read_suppression(self.home))

    def labels(self, days: Sequence[date]) -> Iterator[tuple[date, pa.Table]]:
        """The source's; labels name no user."""
        return self.source.labels(days)

    def rates(self, day: date) -> pa.Table:
        """The source's."""
        return self.source.rates(day)
