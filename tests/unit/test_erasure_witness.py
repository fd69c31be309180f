"""The plain look after an erasure, and the tests' own finder: what they see, in whatever it is wrapped."""

import ast
import bz2
import gzip
import json
import lzma
import random
import sqlite3
import struct
import zipfile
from contextlib import closing
from datetime import date
from pathlib import Path
from urllib.parse import quote

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fraud_platform.erasure import witness
from fraud_platform.erasure.witness import Sighting, Witness
from fraud_platform.lake import Lake
from fraud_platform.online.layout import entity_key
from fraud_platform.processing import device_key
from tests.person_finder import Finder

USER, DEVICE = "user-7041", "phone-of-one"
PERSON = Witness([USER], [DEVICE])


def seen(folder: Path, person: Witness = PERSON) -> list[Sighting]:
    return list(person.folder(folder))


def test_it_shares_no_code_with_what_takes_out() -> None:
    tree = ast.parse(Path(witness.__file__).read_text())
    imported = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [name for name in imported if name.startswith("fraud_platform.erasure")]


WAYS = {
    "text": f"a {USER} b".encode(),
    "device": f'"{DEVICE}"'.encode(),
    "UTF-16": f"a {USER} b".encode("utf-16-le"),
    "gzip": gzip.compress(f"x,{USER}\n".encode()),
    "bzip2": bz2.compress(f"x,{USER}\n".encode()),
    "xz": lzma.compress(f"x,{USER}\n".encode()),
    "zstd": pa.compress(f"x,{USER}\n".encode(), "zstd", asbytes=True),
    "MessagePack, a digit behind": msgspec.msgpack.encode([USER, 55]),
    "Feast's key": entity_key("fraud_platform", "user_id", USER),
    "an escape before": b'{"memo": "hello\\n' + USER.encode() + b'"}',
}


@pytest.mark.parametrize("content", WAYS.values(), ids=WAYS)
def test_a_file_that_holds_an_identifier_in_any_way_is_seen_by_both(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert {each.place for each in seen(tmp_path)} == {str(tmp_path / "file")}
    assert list(Finder(USER, [DEVICE]).folder(tmp_path))


@pytest.mark.parametrize("text", ["user-70410", "xuser-7041", "a-user-7041", "user-7041_b", "phone-of-one-too"])
@pytest.mark.parametrize("before", ["", "\n", "\t", " ", '"'])
def test_a_longer_identifier_is_another_s(tmp_path: Path, text: str, before: str) -> None:
    (tmp_path / "file").write_text(f"{before}{text}")
    assert seen(tmp_path) == []
    assert list(Finder(USER, [DEVICE], decoys=[text]).folder(tmp_path)) == []


@pytest.mark.parametrize("user", ["Zoë Müller", 'a"b\\c', "x/y z", "70411234"])
def test_both_know_how_formats_write_an_identifier(tmp_path: Path, user: str) -> None:
    forms = [
        json.dumps([user]),
        json.dumps([user], ensure_ascii=False),
        json.dumps(json.dumps([user])),
        quote(user, safe=""),
    ]
    if user.isdigit():
        forms += [f"[{form}]" for form in (user, f"{user}.0", "7.0411234e7", "7.0411234E+07", "7.0411234e+07")]
    for form in forms:
        (tmp_path / "file").write_text(form)
        assert seen(tmp_path, Witness([user], [])), form
        assert list(Finder(user).folder(tmp_path)), form


def test_a_part_of_a_number_or_of_a_time_is_no_identifier(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("0.70411234 70411234.5 1:70411234 70411234/5 170411234 704112340")
    assert seen(tmp_path, Witness(["70411234"], [])) == []


def test_a_number_of_few_digits_is_told_and_not_counted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("took 12345 us")
    assert [each.certain for each in seen(tmp_path, Witness(["12345"], []))] == [False]
    assert seen(tmp_path, Witness(["1234"], [])) == []
    pq.write_table(pa.table({"user_id": ["12345", "1234"]}), tmp_path / "file")
    for user in ("12345", "1234"):
        assert next(seen.certain for seen in Witness([user], []).folder(tmp_path)), user


def test_it_stands_across_two_pieces_of_a_file_and_a_cut_is_no_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness, "_CHUNK", 64)
    monkeypatch.setattr(witness, "_OVERLAP", 32)
    draw = random.Random(7)
    for start in range(40, 140):
        filling = bytes(draw.choice(b"abc ") for _ in range(start))
        for content, found in ((f" {USER} ", True), (f" {USER}0 ", False), (f" x{USER} ", False)):
            (tmp_path / "file").write_bytes(filling + content.encode() + b"z" * 90)
            assert bool(seen(tmp_path)) is found, (start, content)
    (tmp_path / "file").write_bytes(b" " * 100 + USER.encode())
    assert seen(tmp_path)


def test_a_database_is_read_table_by_table_and_its_freed_pages_as_bytes(tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE tags (run TEXT, value TEXT)")
        # cells stand side by side in the file
        connection.executemany("INSERT INTO tags VALUES (?, ?)", [("a", "b"), ("a1", f"{USER}"), ("x", "y")])
    assert [each.place for each in seen(tmp_path)] == [f"{path}, table tags, 1 row(s)"]
    assert any("table tags" in str(each) for each in Finder(USER).folder(tmp_path))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute("UPDATE tags SET value = '' WHERE run = 'a1'")
        connection.execute("INSERT INTO tags VALUES ('n', ?)", (device_key(DEVICE),))
    assert any("table tags" in str(each) for each in Finder(USER, [DEVICE]).folder(tmp_path))


def test_a_database_that_is_none_and_a_broken_archive_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"SQLite format 3\0" + b"?" * 100)
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 is no table")
    found = seen(tmp_path)
    assert [each.certain for each in found] == [False] * 3
    assert all("which cannot be" in each.place for each in found)


def test_a_zip_is_opened_with_what_is_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv.gz", gzip.compress(f"x,{USER}\n".encode()))
    assert [each.place for each in seen(tmp_path)] == [f"{tmp_path / 'a.zip'}, inside.csv.gz"]
    assert list(Finder(USER).folder(tmp_path))


CELLS: dict[str, pa.Array] = {
    "text": pa.array([USER, "x"]),
    "in a text": pa.array([None, f'{{"cut": "{USER}']),
    "list": pa.array([["a", USER], None]),
    "struct": pa.array([{"a": {"b": USER}}, None]),
    "map": pa.array([[("k", USER)], None], pa.map_(pa.string(), pa.string())),
    "dictionary": pa.array([USER, USER]).dictionary_encode(),
    "binary": pa.array([msgspec.msgpack.encode([1, USER, 49]), None]),
    "large": pa.array([USER], pa.large_string()),
    "key": pa.array([None, device_key(DEVICE)], pa.int64()),
    "keys": pa.array([[1, device_key(DEVICE)]], pa.list_(pa.int64())),
    "key in bytes": pa.array([struct.pack("<q", device_key(DEVICE))]),
}


@pytest.mark.parametrize("cells", CELLS.values(), ids=CELLS)
def test_every_kind_of_cell_is_decoded(tmp_path: Path, cells: pa.Array) -> None:
    pq.write_table(pa.table({"column": cells}), tmp_path / "t.parquet", compression="zstd", write_statistics=False)
    assert any(", column column, " in each.place and each.certain for each in seen(tmp_path))
    assert list(Finder(USER, [DEVICE]).folder(tmp_path))


def test_a_merchant_of_the_same_number_makes_all_but_users_columns_uncertain(tmp_path: Path) -> None:
    lake, day = Lake(str(tmp_path / "lake")), date(2026, 11, 23)
    lake.write("payments", day, pa.table({"merchant_id": [USER, "m"], "user_id": ["u", "u"]}))
    person = Witness([USER], [])
    assert list(person.lake(lake)) == []
    assert person.alike
    lake.write("payments", day, pa.table({"merchant_id": [USER, "m"], "user_id": ["u", USER]}))
    assert [each.typed for each in person.lake(lake) if "column" in each.place] == [True]
