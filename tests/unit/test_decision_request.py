"""What a caller may send: every field that is wrong is named, amounts are exact, times are instants."""

import json
from contextlib import nullcontext
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.currency import Rates
from fraud_platform.decision.request import InvalidRequest, MalformedBody, named_fields, parse_payment, to_transaction

BODY: dict[str, Any] = {
    "transaction_id": "t-1",
    "user_id": "u-1",
    "merchant_id": "m-1",
    "amount": 42.5,
    "currency": "EUR",
    "country": "DE",
    "merchant_category": "5411",
    "channel": "online",
    "device_id": "d-1",
    "user_country": "AT",
    "timestamp": "2026-11-23T10:00:00Z",
    "location": {"lat": 52.5, "lon": 13.4},
}
FORMER_HASH = "100180dd3c9209784fcfe2b7bf99d3e3"
NOON = int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 1_000_000


def body(amount_text: str | None = None, **changes: Any) -> bytes:
    """BODY with changes; a change to ... leaves a field out; `amount_text` is put in as it stands."""
    fields = {name: value for name, value in {**BODY, **changes}.items() if value is not ...}
    text = json.dumps(fields)
    return (text.replace('"amount": 42.5', f'"amount": {amount_text}') if amount_text is not None else text).encode()


def parse(payload: bytes) -> Any:
    return parse_payment(payload, "EUR")


def test_a_whole_payment_is_read_in_exact_units() -> None:
    payment = parse(body())
    assert (payment.amount_minor, payment.currency, payment.country) == (4250, "EUR", "DE")
    assert payment.timestamp == NOON - 2 * 3_600_000_000
    assert (payment.latitude, payment.longitude, payment.user_country) == (52.5, 13.4, "AT")


def test_optional_fields_may_be_absent_or_null_and_the_currency_is_then_the_base() -> None:
    optional = ("currency", "merchant_category", "channel", "device_id", "user_country", "location")
    absent = parse(body(**dict.fromkeys(optional, ...)))
    assert absent == parse(body(**dict.fromkeys(optional, None)))
    assert absent.currency == "EUR"
    assert absent.device_id is absent.latitude is absent.user_country is None


@pytest.mark.parametrize("field", ["transaction_id", "user_id", "merchant_id", "amount", "country", "timestamp"])
def test_a_missing_required_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequest, match="missing") as caught:
        parse(body(**{field: ...}))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("transaction_id", ""),
        ("transaction_id", "x" * 129),
        ("user_id", 7),
        ("user_id", None),
        ("user_id", "a\nb"),
        ("merchant_id", "nul\x00"),
        ("amount", "42.5"),
        ("amount", True),
        ("amount", None),
        ("amount", [1]),
        ("amount", -1),
        ("amount", 1e13),
        ("amount", 0.001),
        ("country", "de"),
        ("country", "ZZ"),
        ("country", "DEU"),
        ("user_country", "XX"),
        ("currency", "EURO"),
        ("currency", "ABC"),
        ("currency", "XAU"),
        ("merchant_category", "\x7f"),
        ("merchant_category", "x" * 65),
        ("channel", "x" * 65),
        ("device_id", "x" * 129),
        ("timestamp", "2026-11-23T10:00:00"),
        ("timestamp", "2026-11-23"),
        ("timestamp", "yesterday"),
        ("timestamp", 1_700_000_000),
        ("timestamp", "2026-02-30T10:00:00Z"),
        ("location", "Berlin"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body(**{field: value}))
    assert caught.value.field == field
    assert not isinstance(caught.value, MalformedBody)


@pytest.mark.parametrize(("location", "field"), [({"lat": 91, "lon": 0}, "location.lat"), ({"lat": 1}, "location.lon")])
def test_a_wrong_part_of_the_location_is_named_by_its_path(location: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body(location=location))
    assert caught.value.field == field


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b'{"amount": NaN}',
        b'{"amount": Infinity}',
        b'{"user_id": "\xff"}',
        b'{"user_id": "\\ud800"}',
        b"\xef\xbb\xbf{}",
        b'{"x":' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    ],
)
def test_what_is_not_json_is_malformed_and_blames_no_field(payload: bytes) -> None:
    with pytest.raises(MalformedBody) as caught:
        parse(payload)
    assert caught.value.field is None


@pytest.mark.parametrize("payload", [b"[]", b"null", b'"text"', b"1"])
def test_json_that_is_no_object_is_invalid(payload: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(payload)
    assert not isinstance(caught.value, MalformedBody)


def test_fields_that_the_contract_does_not_name_are_ignored() -> None:
    assert parse(body(invoice={"deep": [1, 2]}, **{"transactionId": "other"})) == parse(body())


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("0", "EUR", 0),
        ("0.1", "EUR", 10),
        ("1.10", "EUR", 110),
        ("4.25e1", "EUR", 4250),
        ("1200", "JPY", 1200),
        ("1200.0", "JPY", 1200),
        ("1.234", "KWD", 1234),
        # 0.07 × 100 is 7.000000000000001 in doubles, and 1.005 × 1000 is 1004.9999999999999
        ("0.07", "EUR", 7),
        ("1.005", "BHD", 1005),
        ("9999999999.99", "EUR", 999_999_999_999),
    ],
)
def test_amounts_are_read_from_their_text(text: str, currency: str, minor: int) -> None:
    assert parse(body(amount_text=text, currency=currency)).amount_minor == minor


@pytest.mark.parametrize(("text", "currency"), [("1.5", "JPY"), ("1.001", "EUR"), ("1.0001", "KWD"), ("1e-9", "EUR")])
def test_decimals_that_the_currency_does_not_have_are_an_error_of_the_amount(text: str, currency: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body(amount_text=text, currency=currency))
    assert caught.value.field == "amount"


@pytest.mark.parametrize("text", ["1e400", "1e999", "1" * 33, "1e99999999999999999999", "-0.01"])
def test_amounts_out_of_all_proportion_are_an_error_of_the_amount(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(body(amount_text=text))
    assert caught.value.field == "amount"


@given(cents=st.integers(0, 10**12))
def test_every_amount_in_cents_survives_its_decimal_text(cents: int) -> None:
    assert parse(body(amount_text=str(Decimal(cents).scaleb(-2)))).amount_minor == cents


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [
        ("2026-11-23T12:00:00Z", 0),
        ("2026-11-23T13:00:00+01:00", 0),
        ("2026-11-23T06:30:00-05:30", 0),
        ("2026-11-23T12:00:00.000001Z", 1),
        ("2026-11-23t12:00:00.5z", 500_000),
        # the hour that Berlin has twice, by its two offsets
        ("2026-10-25T02:30:00+02:00", -29 * 86_400_000_000 - 11 * 3_600_000_000 - 1_800_000_000),
        ("2026-10-25T02:30:00+01:00", -29 * 86_400_000_000 - 10 * 3_600_000_000 - 1_800_000_000),
    ],
)
def test_timestamps_are_instants_whatever_their_offset(text: str, microseconds: int) -> None:
    assert parse(body(timestamp=text)).timestamp - NOON == microseconds


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_the_ends_of_the_calendar_do_not_overflow(text: str) -> None:
    transaction = to_transaction(parse(body(timestamp=text)), NOON, Rates("EUR", {}))
    assert transaction.clock_skew
    assert transaction.event_time == NOON


@pytest.mark.parametrize(
    ("minutes", "skewed"), [(0, False), (5, False), (5.001, True), (-24 * 60, False), (-24 * 60 - 0.001, True)]
)
def test_a_clock_over_five_minutes_ahead_or_a_day_behind_is_replaced_by_ours(minutes: float, skewed: bool) -> None:
    happened = NOON + round(minutes * 60_000_000)
    moment = datetime.fromtimestamp(happened / 1e6, UTC).isoformat()
    transaction = to_transaction(parse(body(timestamp=moment)), NOON, Rates("EUR", {}))
    assert transaction.clock_skew is skewed
    assert transaction.event_time == (NOON if skewed else happened)


def test_another_currency_is_converted_at_the_recorded_rate() -> None:
    payment = parse(body(amount_text="1000", currency="JPY"))
    # 1 JPY = 0.0061 EUR: 1000 JPY are 6.10 EUR
    assert to_transaction(payment, NOON, Rates("EUR", {"JPY": 6_100_000})).amount == 610


@pytest.mark.parametrize("currency", ["SEK", "KWD", "INR", "ISK", "BGN"])
def test_an_amount_whose_currency_has_no_rate_is_not_known(currency: str) -> None:
    payment = parse(body(currency=currency, amount=42))
    assert to_transaction(payment, NOON, Rates("EUR", {"USD": 920_000_000})).amount is None
    assert to_transaction(payment, NOON, Rates("EUR", {currency: 2 * 10**9})).amount is not None


@pytest.mark.parametrize("empty", ["", " ", "\t \u00a0"])
def test_optional_text_that_is_empty_is_absent(empty: str) -> None:
    optional = ("currency", "merchant_category", "channel", "device_id", "user_country")
    for name in optional:
        assert parse(body(**{name: empty})) == parse(body(**{name: ...}))
    assert parse(body(**dict.fromkeys(optional, empty))) == parse(body(**dict.fromkeys(optional, ...)))


@pytest.mark.parametrize("code", ["XK", "AC", "TA", "AN"])
def test_a_country_that_payments_name_and_iso_does_not_assign_is_taken(code: str) -> None:
    payment = parse(body(country=code, user_country=code))
    assert (payment.country, payment.user_country) == (code, code)


SAME = [
    {"country": "FR"},
    {"timestamp": "2026-11-23T10:00:00.000001Z"},
    {"device_id": ...},
    {"channel": "pos"},
    {"user_country": "CH"},
    {"merchant_category": "5412"},
    {"location": None},
]
"""What a retry may say otherwise."""


def test_two_bodies_that_ask_for_the_same_payment_have_one_content_hash() -> None:
    plain = parse(body()).content_hash()
    for change in SAME:
        assert parse(body(**change)).content_hash() == plain
        assert parse(body(**change)).differing_field(parse(body())) is None
    reordered = json.dumps(dict(reversed(BODY.items())), indent=3).encode()
    assert parse(reordered).content_hash() == plain
    assert parse(body(amount_text="42.50")).content_hash() == plain
    assert parse(body(amount_text="4.25E+1")).content_hash() == plain
    assert parse(body(timestamp="2026-11-23T11:00:00+01:00")).content_hash() == plain
    assert parse(body(currency=...)).content_hash() == plain
    assert parse(body(extra=1)).content_hash() == plain


@pytest.mark.parametrize("change", [{"user_id": "u-2"}, {"merchant_id": "m-2"}, {"amount": 42.51}, {"currency": "USD"}])
def test_a_body_that_asks_for_another_payment_has_another_content_hash(change: dict[str, Any]) -> None:
    other = parse(body(**change))
    assert other.content_hash() != parse(body()).content_hash()
    assert other.differing_field(parse(body())) == next(iter(change))


@pytest.mark.parametrize("change", [*SAME, {"amount": 42.51}, {"user_id": "u-2"}])
def test_the_hash_of_former_records_is_over_every_field(change: dict[str, Any]) -> None:
    assert parse(body(**change)).former_content_hash() != parse(body()).former_content_hash()


def test_the_hash_of_former_records_is_what_it_was() -> None:
    """Computed by the code that wrote them, for this very body."""
    assert parse(body()).former_content_hash() == FORMER_HASH


def test_named_fields_leave_out_what_the_contract_does_not_know() -> None:
    assert named_fields(b'{"transaction_id": "t", "note": 1}') == {"transaction_id": b'"t"'}


_numbers = st.integers().map(str) | st.floats(allow_nan=False, allow_infinity=False).map(repr)
_texts = st.text().map(json.dumps) | st.text(st.characters(codec="utf-8")).map(
    lambda t: json.dumps(t, ensure_ascii=False)
)
_json = st.recursive(
    _numbers | _texts | st.sampled_from(["null", "true", "NaN", "1e999", "-0", "1E+2", '"2026-11-23T10:00:00Z"', "{}"]),
    lambda inner: st.lists(inner, max_size=2).map(lambda parts: f"[{','.join(parts)}]"),
    max_leaves=3,
)


@given(changes=st.dictionaries(st.sampled_from(list(BODY)), _json, max_size=4), tail=st.binary(max_size=3))
def test_any_body_is_a_payment_or_an_invalid_request(changes: dict[str, str], tail: bytes) -> None:
    fields = {**{name: json.dumps(value) for name, value in BODY.items()}, **changes}
    text = "{" + ",".join(f'"{name}":{value}' for name, value in fields.items()) + "}"
    try:
        payment = parse(text.encode(errors="surrogatepass") + tail)
    except InvalidRequest:
        return
    transaction = to_transaction(payment, NOON, Rates("EUR", dict.fromkeys({payment.currency} - {"EUR"}, 10**9)))
    assert 0 <= transaction.amount <= 10**12
    assert -(24 * 60 + 1) * 60_000_000 <= transaction.event_time - NOON <= 6 * 60_000_000


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('{"user_id": "a", "user_id": "b"}', "user_id"),
        ('{"user_id": "a", "user_id": "a"}', "user_id"),
        ('{"\\u0075ser_id": "a", "user_id": "b"}', "user_id"),
        ('{"amount": 1, "amount" :2, "user_id": ":"}', "amount"),
        ('{"location": {"lat": 1, "lon": 2, "lat": 3}}', "lat"),
        ('{"note": [1, {"deep": {"a": [], "b": {}, "a": 0}}]}', "a"),
        ('{"note": 1, "big": ' + "9" * 5000 + ', "note": 1}', "note"),
    ],
)
def test_a_key_that_stands_twice_is_refused_by_its_name(text: str, key: str) -> None:
    whole = body()[:-1] + b", " + text[1:].encode()
    with pytest.raises(InvalidRequest, match="stands twice in one object") as caught:
        parse(whole)
    assert caught.value.field == key


def trees(alphabet: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    """Objects as lists of pairs, so that a key may stand twice."""
    return st.recursive(
        st.none() | st.text(alphabet, max_size=3),
        lambda each: st.lists(st.tuples(st.text(alphabet, max_size=2), each), max_size=4),
    )


# of plain letters no character is escaped: then keys are counted, and a body is read whole only where that is in doubt
@given(
    trees(st.characters(exclude_categories=["Cs"])) | trees(st.sampled_from("a: ,{}")),
    st.booleans(),
    st.sampled_from((":", ": ", "\t :\n")),
)
def test_twice_is_told_exactly(tree: Any, located: bool, colon: str) -> None:
    """Against a look of its own."""

    def written(node: Any) -> str:
        if not isinstance(node, list):
            return json.dumps(node)
        return "{" + ", ".join(f"{json.dumps(name)}{colon}{written(value)}" for name, value in node) + "}"

    def twice(node: Any) -> bool:
        if not isinstance(node, list):
            return False
        names = [name for name, _ in node]
        return len(names) != len(set(names)) or any(twice(value) for _, value in node)

    whole = (
        body(**({} if located else {"location": None}))[:-1] + b', "note"' + f"{colon}{written(tree)}".encode() + b"}"
    )
    with pytest.raises(InvalidRequest, match="stands twice") if twice(tree) else nullcontext():
        parse(whole)


@given(
    st.lists(st.sampled_from(("note", "a:", ":", "amount", "user_id")), max_size=3), st.sampled_from((":", " :", ": "))
)
def test_twice_is_told_of_outermost_keys(names: list[str], colon: str) -> None:
    """What stands beside the payment's own fields."""
    more = "".join(f', "{name}"{colon}{1 if name == "amount" else chr(34) + ":" + chr(34)}' for name in names)
    whole = body()[:-1] + more.encode() + b"}"
    known = {*json.loads(body()), *names}
    with (
        pytest.raises(InvalidRequest, match="twice")
        if len(known) < len(json.loads(body())) + len(names)
        else nullcontext()
    ):
        parse(whole)
