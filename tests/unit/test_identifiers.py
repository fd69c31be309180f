"""One rule says when two identifiers are the same, and every door applies it."""

import json
import re
import unicodedata
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.client.answer import identity_of
from fraud_platform.decision.request import InvalidRequest, parse_payment
from fraud_platform.erasure.names import Names
from fraud_platform.identifiers import MATCHINGS, SUSPECT, canonical, match_key
from fraud_platform.ingest.mapped_source import MappedSource
from fraud_platform.settings import Settings
from tests.engine_kit import PAYMENT, World, body

NFC, NFD = "Käufer-é1", unicodedata.normalize("NFD", "Käufer-é1")
SPELLINGS = {
    "trailing space": f"{NFC} ",
    "no-break space before": f"\u00a0{NFC}",
    "NFD": NFD,
    "zero-width space": "Käufer\u200b-é1",
    "byte order mark": f"\ufeff{NFC}",
    "soft hyphen": "Käu\u00adfer-é1",
    "mark of direction": f"{NFC}\u200e",
    "variation selector": f"{NFC}\ufe0f",
    "all at once": f" \u2060{NFD}\u200d\u3000",
}

# what the rule is about, often beside each other, among texts of any kind
awkward = st.text(
    st.one_of(st.sampled_from("a1 é\u0301\u200b\u00a0\u0340\u2000\ufe0f\u1160Å\u212b\t"), st.characters())
)


@given(awkward)
def test_the_rule_applied_again_changes_nothing(text: str) -> None:
    once = canonical(text)
    assert canonical(once) == once
    assert once == once.strip()
    assert unicodedata.is_normalized("NFC", once)


@given(awkward, st.sampled_from(["NFC", "NFD"]))
def test_however_an_identifier_is_composed_it_is_the_same(text: str, form: Any) -> None:
    assert canonical(unicodedata.normalize(form, text)) == canonical(text)


@given(awkward, st.sampled_from(["\u200b", "\u200d", "\ufeff", "\u00ad", "\u034f", "\u2066", "\U000e0041"]), st.data())
def test_invisible_characters_make_no_other_identifier(text: str, unseen: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text)))
    assert canonical(text[:at] + unseen + text[at:]) == canonical(text)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E)))
def test_printable_ascii_is_kept_as_it_is(text: str) -> None:
    assert canonical(text) == text


@given(awkward.filter(lambda text: not re.search("[\ud800-\udfff]", text)))
def test_what_columns_are_not_asked_about_the_rule_leaves_alone(text: str) -> None:
    """Only suspects of the pattern are given to the rule: whatever it would change has to be one, for DuckDB's RE2."""
    [(suspect,)] = duckdb.execute("SELECT regexp_matches(?, ?)", [text, SUSPECT]).fetchall()
    assert suspect or canonical(text) == text


@given(awkward)
def test_a_looser_list_takes_for_one_whatever_a_stricter_one_does(text: str) -> None:
    known = canonical(text)
    assert match_key(known, "exact") == known
    for matching in MATCHINGS:
        assert match_key(known, matching) == match_key(canonical(unicodedata.normalize("NFD", known)), matching)
    assert match_key(canonical(known.upper()), "case") == match_key(canonical(known.upper().lower()), "case")


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("U-1", "u-1", {"case", "look_alikes"}),
        ("STRASSE", "straße", {"case", "look_alikes"}),
        ("paypal", "pаypаl", {"look_alikes"}),
        ("HOBBY", "НОВВУ", {"look_alikes"}),
        ("u-1", "ｕ－１", {"look_alikes"}),
        ("u-1", "u‐1", {"look_alikes"}),
        ("u-12", "u-١٢", {"look_alikes"}),  # Arabic figures
        ("l0l", "IO1", {"look_alikes"}),
        ("O1", "Ö1", set()),
        ("10", "11", set()),
        ("u-1", "u-2", set()),
    ],
)
def test_what_looks_alike_is_one_for_a_list_that_is_set_so(one: str, other: str, alike: set[str]) -> None:
    same = {
        matching
        for matching in MATCHINGS
        if match_key(canonical(one), matching) == match_key(canonical(other), matching)
    }
    assert same == alike


@given(st.integers(0, 10**18), st.integers(0, 10**18))
def test_two_numbers_never_look_alike(one: int, other: int) -> None:
    assert (match_key(str(one), "look_alikes") == match_key(str(other), "look_alikes")) == (one == other)


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize("name", ["transaction_id", "user_id", "merchant_id", "device_id"])
def test_the_service_knows_an_identifier_in_every_spelling(name: str, spelled: str) -> None:
    payment, other = (parse_payment(body(**{name: one}), "EUR") for one in (spelled, NFC))
    assert getattr(payment, name) == NFC
    assert payment.content_hash() == other.content_hash()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [(name, "\u0958" * 128, "longer than 128") for name in ("transaction_id", "user_id", "merchant_id", "device_id")]
    + [(name, " \u200b", "nothing but") for name in ("transaction_id", "user_id", "merchant_id")],
)
def test_an_identifier_that_the_rule_leaves_nothing_of_is_refused_by_name(name: str, value: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_payment(body(**{name: value}), "EUR")
    assert caught.value.field == name


def test_a_device_of_which_nothing_can_be_seen_is_none() -> None:
    assert parse_payment(body(device_id=" \u200b"), "EUR").device_id is None


async def test_a_retry_in_another_spelling_is_the_same_payment_and_counts_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    engine = world.engine()
    try:
        first = await engine.decide(body(user_id=NFC, transaction_id=NFC), "shop")
        again = await engine.decide(body(user_id=f"{NFD}\u200b", transaction_id=f" {NFD}"), "shop")
        assert first.status == again.status == 200
        assert again.body == first.body
        assert world.features.counted == {("shop", NFC)}
        asked = json.dumps({"transaction_id": f"{NFD} "}).encode()
        assert json.loads((await engine.explain(asked, "shop")).body)["transaction_id"] == NFC
    finally:
        for explainer in world.explainers:
            explainer.close()


def test_the_client_takes_two_spellings_for_one_payment() -> None:
    assert identity_of({**PAYMENT, "user_id": f"{NFD} "}) == identity_of({**PAYMENT, "user_id": NFC})


def test_an_import_takes_every_spelling_for_one_identifier(tmp_path: Path) -> None:
    rows = [
        {"id": f"t{number} ", "user": spelled, "merchant": spelled, "device": f"{spelled}\t", "amount": 1}
        | {"at": "2026-01-05T10:00:00Z", "fraud": "1"}
        for number, spelled in enumerate(SPELLINGS.values())
    ]
    # nothing can be seen of this device, and of this user
    rows.append(rows[0] | {"id": "none", "device": "\u200b "})
    rows.append(rows[0] | {"id": "nobody", "user": "\u200b "})
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "map.yaml").write_text(
        f"path: {tmp_path / 'rows.jsonl'}\ncurrency: EUR\n"
        "columns: {transaction_id: id, user_id: user, merchant_id: merchant, device_id: device, amount: amount,\n"
        "  timestamp: at}\nlabel: {column: fraud, arrives_after_days: 1}\n"
    )
    source = MappedSource.open(tmp_path / "map.yaml", Settings(home=tmp_path / "home"))
    [(_, found)] = source.transactions([date(2026, 1, 5)])
    by_id = {row["transaction_id"]: row for row in found.to_pylist()}
    assert by_id.keys() == {*(f"t{number}" for number in range(len(SPELLINGS))), "none", "nobody"}
    assert {row["user_id"] for row in by_id.values()} == {NFC, ""}
    assert by_id["nobody"]["user_id"] == ""
    assert {row["merchant_id"] for row in by_id.values()} == {NFC}
    assert by_id.pop("none")["device_id"] is None
    assert {row["device_id"] for row in by_id.values()} == {NFC}
    [(_, labels)] = source.labels([date(2026, 1, 6)])
    assert set(labels["transaction_id"].to_pylist()) >= by_id.keys()


@pytest.mark.parametrize("spelled", SPELLINGS.values(), ids=SPELLINGS)
def test_an_erasure_finds_every_spelling(spelled: str) -> None:
    for asked, kept in ((spelled, NFC), (NFC, spelled)):
        names = Names(asked)
        assert names.is_user(kept)
        assert NFC in names.users
    assert not Names(spelled).is_user("Käufer-e1")
    assert Names(NFC).in_text(f'{{"who": "{NFD}"}}')


async def test_an_explanation_refuses_a_key_that_stands_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    twice = b'{"transaction_id": "t-1", "transaction_id": "t-2"}'
    try:
        answer = await world.engine().explain(twice, "shop")
        assert (answer.status, json.loads(answer.body)["field"]) == (422, "transaction_id")
    finally:
        for explainer in world.explainers:
            explainer.close()
