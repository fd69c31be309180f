"""An identifier in a form that the rule of identity takes for the same: found in any text, and taken out of it alone.

The remover and the plain look are both held against forms that are made here, from the identifier, by drawing.
"""

import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.erasure.home import blank_comments
from fraud_platform.erasure.mentions import mentions
from fraud_platform.erasure.names import Names
from fraud_platform.erasure.suppression import read_suppression, suppress, without_erased
from fraud_platform.erasure.witness import Witness
from fraud_platform.identifiers import INVISIBLE, canonical
from fraud_platform.schema import QUARANTINE
from tests.unit.test_erasure import export

USERS = [
    "70411234",
    "u-12345",
    "Käufer-é1",
    "Zoë Müller",
    "ệ-ǖ-ạ́x9",
    'a"b\\c/d',
    "각-각99",
    "用户-77",
    "KILO;7`8",
    "Ω-x̂-1",
]
UNSEEN = [char for char in map(chr, range(0x110000)) if INVISIBLE.match(char)]
SAME = {"K": "\u212a", ";": "\u037e", "`": "\u1fef", "Ω": "\u2126"}
WAYS: dict[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, its letters as they are": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    "URL": lambda text: quote(text, safe=""),
    "form": quote_plus,
    "CSV": lambda text: text.replace('"', '""'),
}
# nothing of a word next to the identifier; farther away whatever people and programs write
BOUNDARIES = st.sampled_from([" ", ",", ";", '"', "(", ")", "\n", "\t", "“", "、", "=", "&", "|"])
PROSE = st.text(st.sampled_from("abcÄß é\u0301\u200b,.;:-_\"'()用\n\ufeff😀"), max_size=12)


@st.composite
def spelled(draw: st.DrawFn, user: str) -> str:
    """Another form of the same identifier; its first and last characters can be seen."""
    parts = []
    for char in user:
        form = draw(st.sampled_from([char, unicodedata.normalize("NFD", char), SAME.get(char, char)]))
        parts += list(form)
    unseen = st.text(st.sampled_from(UNSEEN), max_size=2)
    return parts[0] + "".join(draw(unseen) + part for part in parts[1:])


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, str, str, str]:
    """User, what stands before them in a text, they themselves, what stands behind."""
    user = draw(st.sampled_from(USERS))
    written = draw(st.sampled_from(list(WAYS.values())))(draw(spelled(user)))
    return user, draw(PROSE) + draw(BOUNDARIES), written, draw(BOUNDARIES) + draw(PROSE)


@given(st.data())
def test_the_forms_that_are_drawn_are_the_same_by_the_rule(data: st.DataObject) -> None:
    user = data.draw(st.sampled_from(USERS))
    assert canonical(data.draw(spelled(user))) == canonical(user)


@given(texts())
def test_whatever_form_stands_in_a_text_is_taken_out_of_it_alone(drawn: tuple[str, str, str, str]) -> None:
    user, before, written, behind = drawn
    text = before + written + behind
    names = Names(canonical(user))
    assert names.in_text(text)
    assert names.in_prose(text)
    assert names.redacted(text, "?") == f"{before}?{behind}"
    # and what is looked at first, quickly, does not leave it out
    rows = pa.table({"reason": ["x"] * 3, "row": ["a", text, "é\\%"]}, schema=QUARANTINE)
    assert mentions(rows, names).tolist() == [False, True, False]
    assert mentions(pa.table({"value": [b"\xff\x00", b"\xff;" + text.encode()]}), names).tolist() == [False, True]


@given(texts())
def test_the_plain_look_sees_whatever_form_stands_in_a_file_or_a_cell(
    tmp_path_factory: pytest.TempPathFactory, drawn: tuple[str, str, str, str]
) -> None:
    user, *text = drawn
    folder = tmp_path_factory.mktemp("look")
    (folder / "file").write_bytes(b"\xff\n" + "".join(text).encode())
    pq.write_table(pa.table({"note": ["a", "".join(text), None]}), folder / "t.parquet")
    pq.write_table(pa.table({"note": [b"\xff", "".join(text).encode()]}), folder / "u.parquet")
    seen = {Path(each.place.split(",")[0]).name for each in Witness([canonical(user)], []).folder(folder)}
    assert seen == {"file", "t.parquet", "u.parquet"}


@pytest.mark.parametrize(
    "text",
    [
        "7,704\u200b112340,cut",
        "7,x704\u200b11234",
        "7,704\u200b11234é",
        "7,704\u200b11234\u0301",
        "0.704\u200b11234",
        "7,704\u200b1123\u200b4.5",
        "7,704\\u200b112340",
        "7,704%E2%80%8B112340",
        "7,704 11234",
        "７０４１１２３４",
        "704é11234",
    ],
)
def test_a_form_of_a_longer_identifier_is_another_s(tmp_path: Path, text: str) -> None:
    names = Names("70411234")
    assert not names.in_text(text)
    assert names.redacted(text, "?") == text
    (tmp_path / "file").write_text(text)
    assert list(Witness(["70411234"], []).folder(tmp_path)) == []


@pytest.mark.parametrize("form", ["704\u200b11234.0", "7.04\u200b11234e7", "7.0411\\u200b234E+07"])
def test_a_number_that_a_float_held_is_found_with_what_is_invisible_in_it(tmp_path: Path, form: str) -> None:
    names = Names("70411234")
    text = f"é;7,{form},cut"
    assert names.redacted(text, "?") == "é;7,?,cut"
    assert mentions(pa.table({"reason": ["x"], "row": [text]}, schema=QUARANTINE), names).all()
    (tmp_path / "file").write_text(text)
    assert list(Witness(["70411234"], []).folder(tmp_path))


def test_a_device_is_found_in_every_form_too(tmp_path: Path) -> None:
    names = Names("u-1", devices=frozenset({"phöne-of-one"}))
    text = "é, by pho\u0308ne-of\u200b-one."
    assert names.redacted(text, "?") == "é, by ?."
    assert mentions(pa.table({"reason": ["x"], "row": [text]}, schema=QUARANTINE), names).all()
    (tmp_path / "file").write_text(text)
    assert list(Witness(["u-1"], ["phöne-of-one"]).folder(tmp_path))


def test_of_a_comment_each_byte_of_the_form_is_written_over_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "feedback" / "arrived=2026-11-23" / "1-1.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"feedback_id":"f","comment":"Grüße an 704\u200b11234, 704\u200b112340 und 7041\\u200b1234')
    blank_comments(tmp_path, set(), Names("70411234"))
    assert path.read_text() == (
        '{"feedback_id":"f","comment":"Grüße an -----------, 704\u200b112340 und --------------'
    )


@pytest.mark.parametrize(
    "text", ["70\u200b4\u200b1\u200b1\u200b2\u200b34,cut", "7\U000e00410411234", '{"c": "704\\udb40\\udc4111234']
)
def test_an_import_leaves_out_a_rejected_row_s_text_that_holds_the_user_in_any_form(tmp_path: Path, text: str) -> None:
    suppress(tmp_path, Names("70411234"), np.iinfo(np.int64).max)
    rows = export(None, None).append_column("source_row", pa.array([text, "704\u200b112340,cut"]))
    after = without_erased(rows, read_suppression(tmp_path))
    assert after["source_row"].to_pylist() == [None, "704\u200b112340,cut"]


def test_an_import_knows_a_device_that_rows_of_before_the_rule_spell_otherwise(tmp_path: Path) -> None:
    names = Names("70411234", devices=frozenset({"phone\u200b-of-one"}))
    suppress(tmp_path, names, np.iinfo(np.int64).max)
    rows = without_erased(export(None, None, device_id="phone-of-one"), read_suppression(tmp_path))
    assert rows["device_id"].to_pylist() == [None, None]


@pytest.mark.parametrize("text", ['{"c": "\\ud83d\\ude00', '{"c": "\\ud83d"}', "\\ude00,%ff"])
def test_an_import_passes_over_half_a_character_in_a_rejected_row(tmp_path: Path, text: str) -> None:
    suppress(tmp_path, Names("70411234"), np.iinfo(np.int64).max)
    rows = export(None).append_column("source_row", pa.array([text]))
    assert without_erased(rows, read_suppression(tmp_path)).equals(rows)


@pytest.mark.parametrize("fill", ["\\", "%", '"', "7", "é", "\u0301", "\\u0037"])
def test_a_long_run_of_one_character_takes_no_longer_than_other_text(tmp_path: Path, fill: str) -> None:
    text = "é " + fill * (200_000 // len(fill))
    (tmp_path / "file").write_text(text)
    begun = time.process_time()
    assert not Names("70411234").in_text(text)
    assert list(Witness(["70411234"], []).folder(tmp_path)) == []
    # the square of it is minutes
    assert time.process_time() - begun < 5


def test_bytes_of_no_known_form_name_a_user_in_utf_16_too() -> None:
    for encoding in ("utf-16-le", "utf-16-be", "utf-16"):
        for before in (b"", b"\xff"):
            assert Names("u-12345").in_bytes(before + "x u-12345, y".encode(encoding))
            assert not Names("u-12345").in_bytes(before + "x u-123450, y".encode(encoding))
