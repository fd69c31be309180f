"""A plain look at everything after an erasure: whether a person's identifiers stand anywhere, whatever a store means.

What belongs here: reading bytes, cells, keys and values, and finding texts in them. What does not: anything of what
takes a person out (`names`, `mentions`, `rows`): what both overlooked would be called gone. The rule of identity
(`identifiers`) alone is one for both: bytes beyond ASCII are looked at as they stand and as the rule has them. All
that is kept is read once more: half a million rows of Parquet, 80 MB of other files, 40,000 keys of Redis or 100,000
rows of PostgreSQL a second, measured on one core.

A file of PostgreSQL is not read, its tables are. Columns that name merchants and transactions are left out, since a
bank may number all of them alike.
"""

import bz2
import gzip
import lzma
import re
import sqlite3
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from io import BytesIO
from json import dumps
from pathlib import Path
from typing import IO, Any
from unicodedata import category
from urllib.parse import quote

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from psycopg import sql

from fraud_platform.identifiers import canonical
from fraud_platform.lake import Lake
from fraud_platform.online.layout import varint
from fraud_platform.online.shards import RedisClient, scan
from fraud_platform.processing import device_key

SHORTEST = 5
"""Texts below this many bytes stand in any file by chance: they are looked for in columns of users alone."""
CERTAIN_DIGITS = 8
"""A number of fewer digits may be something else's, and is told without being counted."""

_LEFT_OUT = frozenset({"merchant_id", "merchants", "transaction_id", "decision_id", "caller"})
_WORD = frozenset(b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_-")
_CHUNK = 1 << 22
_ROWS = 65_536
_OVERLAP = 1 << 10
_UNREADABLE = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, pa.ArrowException, sqlite3.Error)


@dataclass(frozen=True)
class Sighting:
    """A place that holds an identifier."""

    place: str
    certain: bool = True
    """False where a number stands that may be something else's."""
    typed: bool = False
    """In a column of users or devices alone."""


class Witness:
    """Looks for a person. users: the spellings of their identifier; devices: those that are theirs alone."""

    def __init__(self, users: Iterable[str], devices: Iterable[str], *, alike: bool = False) -> None:
        users, devices = list(users), list(devices)
        self._users = pa.array(users, pa.string())
        self._plain = pa.array([*users, *devices], pa.string())
        self._keys = pa.array([device_key(device) for device in devices], pa.int64())
        self._integers = {int(user) for user in users if user.isascii() and user.isdigit()} | set(
            self._keys.to_pylist()
        )
        long = [text for text in (*users, *devices) if len(text.encode()) >= SHORTEST]
        self._texts = {form for text in long for form in _written(text)}
        self._short_numbers = {
            form for form in self._texts if form.replace(b".", b"").isdigit() and len(form) < CERTAIN_DIGITS
        }
        self._canonical = {form for text in map(canonical, long) for form in _quoted(text) | _floats(text) if form}
        self._parts = {_longest_part(text) for text in self._canonical}
        self.alike = alike
        """Whether something else, such as a merchant met so far, bears an identifier of the person's."""
        self._binary = [form for key in self._keys.to_pylist() for form in (struct.pack("<q", key), varint(key))]

    def folder(self, root: Path, *, without: Sequence[Path] = ()) -> Iterator[Sighting]:
        """Every file of a folder, compressed ones and databases opened; `without` these folders and files."""
        skipped = tuple(path.absolute() for path in without)
        for path in sorted(root.rglob("*")):
            if path.is_symlink() or not path.is_file() or any(path.absolute().is_relative_to(each) for each in skipped):
                continue
            name = str(path)
            try:
                with path.open("rb") as file:
                    head = file.read(16)
                    file.seek(0)
                    if head == b"SQLite format 3\0":
                        yield from self._sqlite(name, path)
                    yield from self._file(name, file)
            except FileNotFoundError:
                # gone meanwhile
                continue
            except PermissionError as error:
                yield Sighting(f"{name}, which cannot be opened ({error})", certain=False)

    def lake(self, lake: Lake) -> Iterator[Sighting]:
        """Every object of a lake."""
        for path in lake.every_file(""):
            try:
                with lake.open_file(path) as file:
                    yield from self._file(f"{lake.root}: {lake.name_of(path)}", file)
            except FileNotFoundError:
                # replaced meanwhile
                continue

    def redis(self, client: RedisClient) -> Iterator[Sighting]:
        """Every key and value of every type, as the server gives them."""
        for master, keys in scan(client, b""):
            with master.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.type(key)
                kinds = pipe.execute()
                for key, kind in zip(keys, kinds, strict=True):
                    _read(pipe, kind, key)
                values = pipe.execute(raise_on_error=False)
            # nearly all of them name nobody of that name
            together = b"\0".join(cell for cell in _flat([keys, values]) if isinstance(cell, bytes))
            if any(form in together for form in (*self._texts, *self._binary)) or self._may_read(together) is not None:
                for key, value in zip(keys, values, strict=True):
                    yield from self._cells(f"Redis, key {key!r}", (key, value))

    def postgres(self, connection: psycopg.Connection, *, schema: str = "%") -> Iterator[Sighting]:
        """Every row of every table, and what the planner noted of them. schema: which alone, as LIKE has it."""
        listed = connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE c.relkind IN ('r', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema') "
            "AND n.nspname LIKE %s ORDER BY 1, 2",
            (schema,),
        ).fetchall()
        for schema, table in listed:
            query = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT (FORMAT BINARY)").format(sql.Identifier(schema, table))
            with connection.cursor() as cursor, cursor.copy(query) as rows:
                # to its end: a copy that is broken off fails the connection
                found = list(self._pieces(f"PostgreSQL, table {table}", _joined(bytes(row) for row in rows)))
            yield from found
        noted = (
            "SELECT tablename, concat_ws(' ', most_common_vals::text, histogram_bounds::text) FROM pg_stats "
            "WHERE schemaname LIKE %s"
        )
        for table, values in connection.execute(noted, (schema,)):
            samples = [bytes.fromhex(one) for one in re.findall(r"\\x((?:[0-9a-f]{2})+)", values)]
            yield from self._cells(f"PostgreSQL, the planner's samples of {table}", (values, *samples))

    def _file(self, name: str, file: IO[bytes]) -> Iterator[Sighting]:
        """A file's bytes, and what they are when opened; it may be closed then."""
        head = file.read(6)
        file.seek(0)
        opened = next((each for magic, each in _COMPRESSED.items() if head.startswith(magic)), None)
        try:
            if head[:4] == b"PAR1":
                # its bytes beside the cells are samples of these, of merchants' too
                yield from self._parquet(name, file)
                return
            yield from self._stream(name, file)
            file.seek(0)
            if head[:4] == b"PK\x03\x04":
                with zipfile.ZipFile(file) as archive:
                    for member in archive.namelist():
                        yield from self._file(f"{name}, {member}", BytesIO(archive.read(member)))
            elif opened is not None:
                yield from self._stream(name, opened(file))
        except _UNREADABLE as error:
            yield Sighting(f"{name}, which cannot be opened ({error})", certain=False)

    def _stream(self, name: str, file: IO[bytes]) -> Iterator[Sighting]:
        yield from self._pieces(name, iter(lambda: file.read(_CHUNK), b""))

    def _pieces(self, name: str, pieces: Iterator[bytes]) -> Iterator[Sighting]:
        """One sighting at most of bytes that come piece by piece; all pieces are taken."""
        rest, first, seen, certain = b"", True, False, False
        piece = next(pieces, b"")
        while piece:
            data, following = rest + piece, next(pieces, b"")
            if not certain:
                found = self._found(data, first=first, last=not following)
                seen, certain = seen or found is not None, bool(found)
            rest, piece, first = data[-_OVERLAP:], following, False
        if seen:
            yield Sighting(name, certain)

    def _parquet(self, name: str, file: IO[bytes]) -> Iterator[Sighting]:
        counts: dict[str, int] = {}
        for batch in pq.ParquetFile(file).iter_batches(_ROWS):
            for field, column in zip(batch.schema, batch.columns, strict=True):
                if field.name not in _LEFT_OUT:
                    count = sum(self._in_leaf(field.name, leaf) for leaf in _leaves(column))
                    counts[field.name] = counts.get(field.name, 0) + count
                elif pa.types.is_string(field.type):
                    self.alike |= bool(pc.any(pc.is_in(column, self._plain)).as_py())
        for column, count in counts.items():
            if count:
                yield Sighting(f"{name}, column {column}, {count} time(s)", typed=_is_typed(column))

    def _in_leaf(self, name: str, values: pa.Array) -> int:
        kind = values.type
        if pa.types.is_int64(kind):
            return int(pc.sum(pc.is_in(values, self._keys)).as_py() or 0)
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind)):
            return 0
        found = pa.repeat(False, len(values))
        if not pa.types.is_binary(kind):
            whole = self._users if "user" in name else self._plain
            found = pc.is_in(values, whole.cast(kind))
            if not _is_typed(name):
                # a short one is as much another thing's
                found = pc.and_(found, pc.greater_equal(pc.binary_length(values), SHORTEST))
        binary = values.cast(pa.large_binary() if pa.types.is_large_string(kind) else pa.binary())
        maybe = pa.repeat(False, len(values))
        for form in (*self._texts, *(self._binary if pa.types.is_binary(kind) else ())):
            maybe = pc.or_(maybe, pc.fill_null(pc.match_substring(binary, form), False))
        if self._may_read(b"\0".join(_unlike_ascii(values, binary))) is not None:
            maybe = pc.fill_null(pc.is_valid(binary), False)
        inside = [self._found(one.as_py()) is not None for one in binary.filter(maybe)]
        maybe = pc.replace_with_mask(maybe, maybe, pa.array(inside, pa.bool_()))
        return int(pc.sum(pc.or_(pc.fill_null(found, False), maybe)).as_py() or 0)

    def _sqlite(self, name: str, path: Path) -> Iterator[Sighting]:
        try:
            with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
                connection.text_factory = bytes
                tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables:
                    named = table.decode()
                    rows = connection.execute('SELECT * FROM "{}"'.format(named.replace('"', '""')))
                    count, certain = 0, False
                    for row in rows:
                        seen = list(self._cells("", row))
                        count += bool(seen)
                        certain |= any(each.certain for each in seen)
                    if count:
                        yield Sighting(f"{name}, table {named}, {count} row(s)", certain)
        except sqlite3.Error as error:
            yield Sighting(f"{name}, which cannot be read as a database ({error})", certain=False)

    def _cells(self, place: str, cells: Any) -> Iterator[Sighting]:
        """One sighting at most of a row, or of a key and its value."""
        found = [seen for cell in _flat(cells) if (seen := self._in_cell(cell)) is not None]
        if found:
            yield Sighting(place, any(found))

    def _in_cell(self, cell: Any) -> bool | None:
        if isinstance(cell, int):
            return abs(cell) >= _CERTAIN if cell in self._integers and abs(cell) >= _SMALL else None
        if isinstance(cell, str):
            return self._found(cell.encode(errors="replace"))
        return self._found(bytes(cell)) if isinstance(cell, bytes | bytearray | memoryview) else None

    def _found(self, data: bytes, *, first: bool = True, last: bool = True) -> bool | None:
        """Whether for certain, where an identifier stands in the bytes; None where none does.

        first, last: whether nothing comes before the bytes, and nothing behind.
        """
        found = None
        for form in self._texts:
            if (form not in self._short_numbers or found is None) and _stands(data, form, first, last):
                found = form not in self._short_numbers or bool(found)
                if found:
                    return True
        if any(form in data for form in self._binary):
            return True
        return found if (plain := self._may_read(data)) is None else self._read(plain, found, first, last)

    def _may_read(self, data: bytes) -> bytes | None:
        """The bytes without escapes, where the rule of identity may see an identifier that does not stand there."""
        plain = _BACKSLASHED.sub(_unescaped, _PERCENT.sub(_octets, data))
        if plain.isascii() and plain == data:
            return None
        visible = plain.translate(None, _NOT_ASCII)
        return plain if any(part in visible for part in self._parts) else None

    def _read(self, data: bytes, found: bool | None, first: bool, last: bool) -> bool | None:
        """`_found` of bytes as the rule reads them. found: what is known of them."""
        # between two characters that it leaves, or it would take white space off the ends
        text = canonical(f"\0{data.decode(errors='surrogateescape')}\0")[1:-1]
        for form in self._canonical:
            if _stands_in(text, form, first, last):
                certain = not form.replace(".", "").isdigit() or len(form) >= CERTAIN_DIGITS
                found = certain or bool(found)
                if found:
                    return True
        return found


_SMALL, _CERTAIN = 10 ** (SHORTEST - 1), 10 ** (CERTAIN_DIGITS - 1)


def _is_typed(column: str) -> bool:
    return "user" in column or "device" in column


def _stands(data: bytes, form: bytes, first: bool, last: bool) -> bool:
    """Whether a text stands in the bytes as one of its own: nothing of a word beside it, or its length before it.

    At an edge that is none of the whole nothing stands: what comes before or behind it is not known.
    """
    digits = form[:1].isdigit() and form[-1:].isdigit()
    at = data.find(form)
    while at >= 0:
        before, behind = data[max(0, at - _AROUND) : at], data[at + len(form) : at + len(form) + _AROUND]
        if (first or len(before) == _AROUND) and (last or len(behind) == _AROUND):
            if _is_sized(before, len(form)):
                return True
            fraction = digits and (_FRACTION_BEFORE.search(before) or _FRACTION_BEHIND.match(behind))
            begins = not before or before[-1] not in _WORD or _ESCAPE.search(before) is not None
            if begins and not fraction and (not behind or behind[0] not in _WORD):
                return True
        at = data.find(form, at + 1)
    return False


def _is_sized(before: bytes, length: int) -> bool:
    """Whether a text's length stands before it, as MessagePack, protobuf, PostgreSQL or Feast's keys have it."""
    if before[-4:] in (struct.pack("<I", length), struct.pack(">I", length)) or before[-2:] == bytes(
        (0xD9, length & 0xFF)
    ):
        return True
    # a length that is a space or a letter itself says nothing
    return length < 32 and (before[-1:] == bytes((0xA0 | length,)) or before[-1:] == bytes((length,)).strip() != b"")


_AROUND = 6
_ESCAPE = re.compile(rb"(?:\\[nrtbf]|\\u[0-9a-fA-F]{4}|%[0-9a-fA-F]{2})$")
# parts of another number or of a time; with 12.0 behind 12 it is the same number
_FRACTION_BEFORE, _FRACTION_BEHIND = re.compile(rb"[0-9][.:/]$"), re.compile(rb"[:/][0-9]|\.0*[1-9]")


def _written(text: str) -> set[bytes]:
    """The ways to write a text; a number also as a float with an exponent. Each holds the others' boundaries."""
    ascii_only = dumps(text)[1:-1]
    found = {text, ascii_only, dumps(text, ensure_ascii=False)[1:-1], dumps(ascii_only)[1:-1], quote(text, safe="")}
    found |= _floats(text)
    return {form.encode(errors="replace") for form in found} | {text.encode("utf-16-le"), text.encode("utf-16-be")}


def _quoted(text: str) -> set[str]:
    """A text as formats quote it, its letters as they are."""
    once = dumps(text, ensure_ascii=False)[1:-1]
    return {text, once, dumps(once, ensure_ascii=False)[1:-1], text.replace('"', '""'), text.replace(" ", "+")}


def _floats(text: str) -> set[str]:
    """A number as a float with an exponent; none of what is no number."""
    if not (text.isascii() and text.isdigit() and text[0] != "0"):
        return set()
    mantissa = f"{Decimal(text):e}".lower().split("e")[0]
    shortest = mantissa.rstrip("0").rstrip(".")
    exponent = len(text) - 1
    return {
        f"{part}{sign}{power}"
        for part in (mantissa, shortest)
        for sign in "eE"
        for power in (str(exponent), f"+{exponent}", f"+{exponent:02}")
    }


_NOT_ASCII = bytes(range(0x80, 0x100))
# one pattern each, which begins with what it looks for: so a search skips what lies between
_PERCENT = re.compile(rb"%[0-9a-fA-F]{2}(?:%[0-9a-fA-F]{2})*")
_BACKSLASHED = re.compile(rb"\\(\\{0,15})u([dD][89abAB][0-9a-fA-F]{2}\\+u[dD][c-fC-F][0-9a-fA-F]{2}|[0-9a-fA-F]{4})")


def _octets(match: re.Match[bytes]) -> bytes:
    """What a URL's escapes stand for."""
    return bytes.fromhex(match[0].replace(b"%", b"").decode())


def _unescaped(match: re.Match[bytes]) -> bytes:
    """What an escape of JSON stands for, in UTF-8, behind what backslashes are not the escape's own."""
    strokes, units = match.groups()
    char = bytes.fromhex(re.sub(rb"\\+u", b"", units).decode()).decode("utf-16-be", errors="replace")
    count = 1 + len(strokes)
    # 1, 2 or 4 of them escape it, once or more often
    others = 0 if count in (1, 2, 4) else count - (1 if count % 2 else 2)
    return b"\\" * others + char.encode()


def _longest_part(text: str) -> bytes:
    """What of an identifier stands in any text that the rule reads as it, once all but ASCII is taken out there."""
    # the rule takes the Kelvin sign for K, and two marks of Greek for these
    return max(re.split(r"[^\x00-\x7f]|[K;`]", text), key=len).encode()


def _unlike_ascii(values: pa.Array, binary: pa.Array) -> list[bytes]:
    """The cells that the rule of identity may read otherwise; of bytes all."""
    cells = binary.drop_null()
    if pa.types.is_binary(values.type):
        return list(cells.to_pylist())
    odd = pc.invert(pc.string_is_ascii(values.drop_null()))
    for mark in (b"\\u", b"%"):
        odd = pc.or_(odd, pc.match_substring(cells, mark))
    return list(cells.filter(odd).to_pylist())


def _stands_in(text: str, form: str, first: bool, last: bool) -> bool:
    """`_stands` of a text that the rule has read: letters of every script are of a word here, and so are marks."""
    number = form[0].isdigit() and form[-1].isdigit()
    at = text.find(form)
    while at >= 0:
        before, behind = text[max(0, at - _AROUND) : at], text[at + len(form) : at + len(form) + _AROUND]
        if (first or len(before) == _AROUND) and (last or len(behind) == _AROUND):
            begins = not before or not _is_word(before[-1]) or re.search(r"\\[nrtbf]$", before) is not None
            ends = not behind or not (_is_word(behind[0]) or category(behind[0]).startswith("M"))
            part = number and (
                re.search(r"[0-9][.:/]$", before) or re.match(r"[:/][0-9]|\.0*[1-9]", behind)
            )  # of another number, or of a time
            if begins and ends and not part:
                return True
        at = text.find(form, at + 1)
    return False


def _is_word(char: str) -> bool:
    return char.isalnum() or char in "_-"


def _joined(rows: Iterable[bytes]) -> Iterator[bytes]:
    """Rows as pieces of some size."""
    held: list[bytes] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row)
        if size >= _CHUNK:
            yield b"".join(held)
            held, size = [], 0
    yield b"".join(held)


def _leaves(column: pa.Array) -> Iterator[pa.Array]:
    """The flat arrays within lists, structs, maps and dictionaries."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        yield from _leaves(column.cast(kind.value_type))
    elif pa.types.is_struct(kind):
        for part in column.flatten():
            yield from _leaves(part)
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys)
        yield from _leaves(column.items)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(pc.list_flatten(column))
    else:
        yield column


def _read(pipe: Any, kind: bytes, key: bytes) -> None:
    """Ask for the whole value of a key."""
    if kind == b"hash":
        pipe.hgetall(key)
    elif kind == b"set":
        pipe.smembers(key)
    elif kind == b"zset":
        pipe.zrange(key, 0, -1)
    elif kind == b"list":
        pipe.lrange(key, 0, -1)
    elif kind == b"stream":
        pipe.xrange(key)
    else:
        # one that ended meanwhile has no value
        pipe.get(key)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(key)
            yield from _flat(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _flat(item)
    else:
        yield value


_COMPRESSED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": lambda file: pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd"),
}
