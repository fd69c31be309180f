"""What may name a person is taken out of a document whole, and comes back as it was."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fraud_platform.control.words import Words, found, hidden, numbers_in, shown

TEXTS = st.text("abc~1", min_size=1, max_size=6).map(lambda text: f"secret {text}")
ENTRIES = st.fixed_dictionaries(
    {"kind": st.sampled_from(["user", "device", "merchant", "country"]), "value": TEXTS, "why": TEXTS}
)
DOCUMENTS = st.fixed_dictionaries(
    {
        "version": st.integers(1, 9),
        "why": st.none() | TEXTS,
        "block_list": st.lists(ENTRIES, max_size=4),
        "to": st.fixed_dictionaries({"threshold": st.floats(0, 1), "allow_list": st.lists(ENTRIES, max_size=3)}),
    }
)


def personal(document: Any) -> set[str]:
    """The texts that may name a person, found by another way: every entry of the two lists, and every reason."""
    entries = [*document["block_list"], *document["to"]["allow_list"]]
    named = {entry["value"] for entry in entries if entry["kind"] in ("user", "device")}
    return named | {entry["why"] for entry in entries} | ({document["why"]} - {None})


@given(DOCUMENTS)
def test_what_is_hidden_names_nobody_and_is_shown_as_it_was(document: dict[str, Any]) -> None:
    words = found(document)
    assert {text for _, text in words} == personal(document)
    numbers = {one: number for number, one in enumerate(sorted(words), 100)}
    without = hidden(document, numbers)
    assert found_texts(without) == found_texts(document) - personal(document) | kept(document)
    assert numbers_in(without) == set(numbers.values())
    assert shown(without, {number: one.text for one, number in numbers.items()}) == document


def found_texts(value: Any) -> set[str]:
    """Every text in a document that begins as the drawn ones do."""
    if isinstance(value, dict):
        return set().union(*map(found_texts, value.values()), set())
    if isinstance(value, list):
        return set().union(*map(found_texts, value), set())
    return {value} if isinstance(value, str) and value.startswith("secret") else set()


def kept(document: Any) -> set[str]:
    """Values of merchants and countries, which name nobody and stay."""
    entries = [*document["block_list"], *document["to"]["allow_list"]]
    return {entry["value"] for entry in entries if entry["kind"] in ("merchant", "country")}


def test_a_tuple_is_searched_as_a_list_is() -> None:
    document = {"block_list": ({"kind": "user", "value": "u-1", "why": "x"},)}
    assert found(document) == {Words("user", "u-1"), Words("why", "x")}
    assert hidden(document, {Words("user", "u-1"): 1, Words("why", "x"): 2}) == {
        "block_list": [{"kind": "user", "value": 1, "why": 2}]
    }


def test_an_erased_text_is_shown_in_the_other_s_place() -> None:
    assert shown({"kind": "user", "value": 1}, {1: "erased-1"}) == {"kind": "user", "value": "erased-1"}
