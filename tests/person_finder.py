"""A search for a person in everything that the platform keeps, as somebody would make it who knows no store's layout.

What belongs here: opening what holds bytes, and looking for a person's identifiers in them in every way of writing that
is known. What does not: anything of `fraud_platform.erasure`, which this is held against. There are no rules about
where an identifier begins or ends: `decoys`, longer identifiers that hold the person's, are taken out beforehand.
"""

import base64
import bz2
import contextlib
import gzip
import html
import io
import json
import lzma
import re
import sqlite3
import struct
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import fsspec
import msgspec
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import redis

from fraud_platform.processing import device_key


@dataclass(frozen=True)
class Sighting:
    """Where a person was seen."""

    place: str
    written: str
    """Which way of writing."""

    def __str__(self) -> str:
        return f"{self.place}: {self.written}"


class Finder:
    """Looks for one person. decoys: identifiers of others that hold the person's."""

    def __init__(self, user: str, devices: Sequence[str] = (), decoys: Sequence[str] = ()) -> None:
        self._needles = _texts(user) | (_numbers(user) if user.isdigit() else {})
        self._integers = {int(user)} if user.isdigit() else set[int]()
        for device in devices:
            self._needles |= _texts(device) | _integer(device_key(device))
            self._integers.add(device_key(device))
        self._decoys = sorted((form for decoy in decoys for form in _texts(decoy)), key=len, reverse=True)

    def everywhere(self, home: Path, lake: str, redis_url: str, postgres_url: str, *others: Path) -> list[Sighting]:
        """Folders, the lake, Redis and PostgreSQL; one sighting per place and way of writing."""
        found = [*self.folder(home), *self.in_redis(redis_url), *self.in_postgres(postgres_url)]
        if not Path(lake).is_relative_to(home):
            found += self.address(lake)
        for other in others:
            found += self.folder(other)
        return sorted(set(found), key=str)

    def folder(self, folder: Path) -> Iterator[Sighting]:
        """Every file below a folder, but a PostgreSQL server's own, whose tables are read through it."""
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder.parent).as_posix()
            yield from self._seen(name, "the file's name", name.encode())
            if path.is_file() and "postgres" not in path.relative_to(folder).parts:
                yield from self.payload(name, path.read_bytes())

    def address(self, address: str) -> Iterator[Sighting]:
        """Every object below an fsspec address."""
        fs, root = fsspec.core.url_to_fs(address, use_listings_cache=False)
        for path in sorted(fs.find(root)):
            yield from self.payload(path, fs.cat_file(path))

    def payload(self, name: str, content: bytes) -> Iterator[Sighting]:
        """A file: its bytes, and what they are when opened."""
        yield from self._seen(name, "bytes", content)
        if content[:4] == b"PAR1":
            yield from self._parquet(name, content)
        elif content[:16] == b"SQLite format 3\0":
            yield from self._sqlite(name, content)
        else:
            for kind, opened in _opened(content):
                yield from self.payload(f"{name}[{kind}]", opened)

    def _parquet(self, name: str, content: bytes) -> Iterator[Sighting]:
        table = pq.read_table(io.BytesIO(content))
        for field in table.schema:
            # column by column: what stands beside a value does not matter
            for value in table[field.name].to_pylist():
                yield from self._value(f"{name}, column {field.name}", value)

    def _sqlite(self, name: str, content: bytes) -> Iterator[Sighting]:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "copy.db"
            copy.write_bytes(content)
            with contextlib.closing(sqlite3.connect(copy)) as connection:
                connection.text_factory = bytes
                tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
                for (table,) in tables:
                    named = table.decode()
                    for row in connection.execute(f'SELECT * FROM "{named}"'):
                        for value in row:
                            yield from self._value(f"{name}, table {named}", value)

    def in_redis(self, url: str) -> Iterator[Sighting]:
        """Every key of every type, its value and the server's own serialisation of it."""
        with redis.Redis.from_url(url) as client:
            for key in client.scan_iter(count=1000):
                place = f"Redis, {bytes(key)!r}"
                kind = client.type(key).decode()
                read: Any = {
                    "string": client.get,
                    "hash": client.hgetall,
                    "list": lambda each: client.lrange(each, 0, -1),
                    "set": client.smembers,
                    "zset": lambda each: client.zrange(each, 0, -1, withscores=True),
                    "stream": client.xrange,
                }[kind]
                yield from self._value(place, key)
                yield from self._value(place, read(key))
                yield from self._value(place, client.dump(key))

    def in_postgres(self, url: str) -> Iterator[Sighting]:
        """Every value of every table, and what the planner has noted of them."""
        with psycopg.connect(url) as connection:
            listed = connection.execute(
                "SELECT table_schema, table_name FROM information_schema.tables "
                "WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
            ).fetchall()
            for schema, table in listed:
                for row in connection.execute(f'SELECT * FROM "{schema}"."{table}"'):  # type: ignore[arg-type]
                    for value in row:
                        yield from self._value(f"PostgreSQL, {table}", value)
            noted = "SELECT tablename, most_common_vals::text, histogram_bounds::text FROM pg_stats"
            for table, *values in connection.execute(noted):
                for value in values:
                    for part in (value or "").replace("{", ",").replace("}", ",").split(","):
                        bare = part.strip('"').replace("\\\\", "\\")
                        with contextlib.suppress(ValueError):
                            yield from self._value(f"PostgreSQL, statistics of {table}", bytes.fromhex(bare[2:]))
                        yield from self._value(f"PostgreSQL, statistics of {table}", bare)

    def _value(self, place: str, value: Any) -> Iterator[Sighting]:
        """Whatever a store gives back, down to its texts, bytes and numbers."""
        if value is None or isinstance(value, (bool, date, datetime)):
            return
        if isinstance(value, int | float | Decimal):
            if value in self._integers:
                yield Sighting(place, "as a number")
        elif isinstance(value, str):
            yield from self._seen(place, "text", value.encode(errors="surrogateescape"))
        elif isinstance(value, bytes | bytearray | memoryview):
            content = bytes(value)
            yield from self._seen(place, "bytes", content)
            for kind, opened in _opened(content):
                yield from self._value(f"{place}[{kind}]", opened)
            with contextlib.suppress(msgspec.MsgspecError):
                yield from self._value(f"{place}[MessagePack]", _msgpack(content))
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from self._value(place, key)
                yield from self._value(place, item)
        else:
            for item in value:
                yield from self._value(place, item)

    def _seen(self, place: str, what: str, content: bytes) -> Iterator[Sighting]:
        visible = _visible(content)
        for read, form in ((what, content), *([(f"{what} without what is invisible", visible)] * (visible != content))):
            without = form
            for decoy in self._decoys:
                without = without.replace(decoy, b"\0")
            for needle, written in self._needles.items():
                if needle in without:
                    yield Sighting(place, f"{read}, {written}")


def _msgpack(content: bytes) -> Any:
    decoded = msgspec.msgpack.decode(content)
    # every text is some MessagePack: its first byte, a number
    return decoded if isinstance(decoded, list | dict) else None


def _opened(content: bytes) -> Iterator[tuple[str, bytes]]:
    """What is inside of something compressed."""
    if content[:2] == b"\x1f\x8b":
        yield "gzip", gzip.decompress(content)
    elif content[:4] == b"\x28\xb5\x2f\xfd":
        with pa.input_stream(pa.py_buffer(content), compression="zstd") as stream:
            yield "zstd", stream.read()
    elif content[:3] == b"BZh":
        yield "bzip2", bz2.decompress(content)
    elif content[:6] == b"\xfd7zXZ\0":
        yield "xz", lzma.decompress(content)
    elif content[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield f"zip, {name}", archive.read(name)


def _texts(text: str) -> dict[bytes, str]:
    """The ways to write a text, and what they are called."""
    found = {text.encode(): "as it is"}
    escaped = json.dumps(text)[1:-1]
    for form, written in (
        (escaped, "escaped for JSON"),
        (json.dumps(text, ensure_ascii=False)[1:-1], "quoted for JSON"),
        (json.dumps(escaped)[1:-1], "twice escaped for JSON"),
        (quote(text, safe=""), "URL-encoded"),
        (quote(text, safe="").lower(), "URL-encoded in lower case"),
        (quote_plus(text), "form-encoded"),
        (html.escape(text), "escaped for HTML"),
        (text.encode().hex(), "in hexadecimal"),
    ):
        found.setdefault(form.encode(), written)
    for encoding in ("utf-16-le", "utf-16-be"):
        found.setdefault(text.encode(encoding), encoding)
    for offset in range(3):
        # the digits that do not depend on what stands before and behind
        coded = base64.b64encode(b"\0" * offset + text.encode())
        whole = coded[(0, 2, 3)[offset] : (offset + len(text.encode())) * 8 // 6]
        if len(whole) >= 6:
            found.setdefault(whole, "in base64")
    return found


def _numbers(digits: str) -> dict[bytes, str]:
    """The ways to write a whole number beside its digits; `12345.0` holds them."""
    found = _integer(int(digits))
    found |= {struct.pack(order + "d", int(digits)): "as a float's bytes" for order in "<>"}
    mantissa = f"{digits[0]}.{digits[1:]}".rstrip("0").rstrip(".")
    for sign in "eE":
        for exponent in (f"{len(digits) - 1}", f"+{len(digits) - 1}", f"+{len(digits) - 1:02}"):
            found[f"{mantissa}{sign}{exponent}".encode()] = "in scientific notation"
    return found


_INVISIBLE = "\u00ad\u034f\u200b\u200c\u200d\u200e\u2060\ufe0f\ufeff"
_UNSEEN = re.compile("|".join(rf"{one}|\\+u{ord(one):04x}|{quote(one)}" for one in _INVISIBLE).encode(), re.IGNORECASE)


def _visible(content: bytes) -> bytes:
    """What people see of it: without some invisible characters, letters and their marks in one."""
    seen = _UNSEEN.sub(b"", content)
    return (
        seen
        if seen.isascii()
        else unicodedata.normalize("NFC", seen.decode(errors="surrogateescape")).encode(errors="surrogateescape")
    )


def _integer(number: int) -> dict[bytes, str]:
    found = {str(number).encode(): "in digits"}
    if -(2**63) <= number < 2**63 and abs(number) >= 2**24:
        found |= {struct.pack(order + "q", number): "as an integer's bytes" for order in "<>"}
        rest, varint = number & 2**64 - 1, bytearray()
        while rest > 0x7F:
            varint.append(rest & 0x7F | 0x80)
            rest >>= 7
        found[bytes((*varint, rest))] = "as a varint"
    return found
