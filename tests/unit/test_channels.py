"""The vocabulary of channels: what is read as what, and that every stage reads it alike."""

from itertools import product

import ibis
import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fraud_platform.channels import CHANNELS, WORDS, channel_of, is_online, words
from fraud_platform.features.offline import paid_online
from fraud_platform.settings import Settings


@pytest.mark.parametrize(
    ("text", "channel"),
    [
        *((text, "online") for text in ("online", "ONLINE", " online", "Online\t", "ecommerce", "E-Commerce", "web")),
        *((text, "pos") for text in ("POS", "in-store", "Card Present", "contactless")),
        ("ATM", "atm"), ("telephone order", "moto"), ("Other", "other"),
        *((text, None) for text in ("", " ", "on line", "0", "mobile", "branch", "onlinе")),
    ],
)  # fmt: skip
def test_a_text_is_read_whatever_its_case_and_the_blanks_around_it(text: str, channel: str | None) -> None:
    assert channel_of(text) == channel
    assert channel_of(None) is None


@given(
    st.sampled_from(sorted(WORDS)), st.lists(st.booleans(), min_size=30, max_size=30), st.sampled_from(["", " ", "\n"])
)
def test_every_word_means_one_channel_in_any_case(word: str, upper: list[bool], blank: str) -> None:
    written = "".join(letter.upper() if up else letter for letter, up in zip(word, upper, strict=False))
    assert channel_of(blank + written + blank) == WORDS[word]
    assert channel_of(channel_of(written)) == WORDS[word], "what was read is read as itself"


def test_a_setting_adds_words_and_takes_none_away() -> None:
    known = words(Settings(channel_synonyms={" WebPortal": "online", "branch": "other"}).channel_synonyms)
    assert channel_of("webportal ", known) == "online"
    assert channel_of("Branch", known) == "other"
    assert all(channel_of(word, known) == channel for word, channel in WORDS.items())
    for wrong in ({"branch": "counter"}, {"web": "pos"}, {" ": "online"}, {"pos": "online"}):
        with pytest.raises(ValidationError, match="channel_synonyms"):
            Settings(channel_synonyms=wrong)


def test_a_column_is_online_as_a_payment_is() -> None:
    texts = [*CHANNELS, None, "ONLINE", "carrier pigeon"]
    column = ibis.memtable(pa.table({"channel": pa.array(texts, pa.string())}))
    got = ibis.duckdb.connect().to_pyarrow(paid_online(column.channel)).to_pylist()
    assert got == [is_online(text) for text in texts]
    assert got[0] is True
    assert got[1:5] == [False] * 4
    assert got[5:] == [None] * 3


def test_a_record_from_before_words_were_kept_is_read_by_the_words_of_today() -> None:
    from datetime import date

    from fraud_platform.currency import Rates
    from fraud_platform.ingest.decided import decided_rows
    from fraud_platform.ingest.standardize import standardize
    from tests.record_kit import record

    former = record(schema_version=2)
    former = msgspec.structs.replace(former, request=msgspec.structs.replace(former.request, channel="ECOMMERCE"))
    assert former.read_channel == "ECOMMERCE", "it was no exact `online`, and its own version read it so"
    result = standardize(decided_rows([former]), date(2026, 11, 23), Rates("EUR", {}), "EUR")
    assert result.transactions["channel"].to_pylist() == ["online"]


def test_online_and_offline_read_the_same_of_any_text() -> None:
    from datetime import UTC, date, datetime

    from fraud_platform.currency import Rates
    from fraud_platform.decision.request import parse_payment, to_transaction
    from fraud_platform.ingest.decided import decided_rows
    from fraud_platform.ingest.standardize import standardize
    from tests.engine_kit import body
    from tests.record_kit import record

    known = words({"portal": "online"})
    rates, at = Rates("EUR", {}), int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()) * 1_000_000
    texts = [a + b + c for a, b, c in product(("", " "), (*WORDS, "PORTAL", "carrier pigeon", "x"), ("", "\u00a0"))]
    records = []
    for number, text in enumerate(texts):
        payment = parse_payment(body(transaction_id=f"t{number:03}", channel=text), "EUR")
        online = to_transaction(payment, at, rates, known)
        records.append(
            record(
                f"t{number:03}", request=payment, channel=online.channel, received_at=at, decision_id=f"{number:032x}"
            )
        )
    rows = decided_rows(records)
    decided = standardize(rows, date(2026, 11, 23), rates, "EUR", None, WORDS)
    # what was decided keeps the word of then, though the words are others now; a source's rows are read now
    sent = pa.array([each.request.channel for each in records], pa.string())
    sources = rows.set_column(rows.schema.get_field_index("channel"), "channel", sent)
    imported = standardize(sources, date(2026, 11, 23), rates, "EUR", None, known)
    want = [each.channel for each in records]
    assert imported.transactions["channel"].to_pylist() == want
    assert set(want) == {*CHANNELS, None}
    assert sum(imported.channels_unknown.values()) == want.count(None)
    assert decided.transactions["channel"].to_pylist() == want
