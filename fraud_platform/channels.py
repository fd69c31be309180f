"""The vocabulary of `channel`: what callers and sources say, as one of a few words.

What belongs here: the words, their synonyms, and how a text is read. What does not: which feature reads which word.
A text is read where it comes in, once: at a decision, whose record keeps the word, and at the ingest of a source's row.
"""

from collections.abc import Mapping

ONLINE = "online"
CHANNELS = (ONLINE, "pos", "atm", "moto", "other")
"""Over the internet; at a terminal; at a cash machine; by mail or telephone order; known, and none of these."""

_SYNONYMS = {
    ONLINE: ("app", "e-com", "e-commerce", "ecom", "ecommerce", "in-app", "internet", "web", "website", "webshop"),
    "pos": ("card present", "card-present", "card_present", "contactless", "in store", "in-store", "in_store",
            "instore", "point of sale", "store", "terminal"),
    "atm": ("cash machine", "cash_machine"),
    "moto": ("mail order", "mail_order", "mail/telephone order", "phone", "phone order", "telephone",
             "telephone order"),
    "other": (),
}  # fmt: skip

WORDS: Mapping[str, str] = {word: channel for channel, synonyms in _SYNONYMS.items() for word in (channel, *synonyms)}
"""The channel that each word means, before a setting adds its own. A word more, or one that means another channel, is
another value of `is_online`: it raises `VALUES_VERSION`."""


def _plain(text: str) -> str:
    return text.strip().lower()


def words(synonyms: Mapping[str, str]) -> Mapping[str, str]:
    """WORDS and some more. Raises ValueError for a channel that there is not, and for a word that means another."""
    more = {_plain(word): channel for word, channel in synonyms.items()}
    for word, channel in more.items():
        if channel not in CHANNELS:
            raise ValueError(f"{word!r}: {channel!r} is not a channel; the channels are {', '.join(CHANNELS)}")
        if not word or WORDS.get(word, channel) != channel:
            raise ValueError(f"{word!r} cannot mean {channel}: {'it is empty' if not word else f'it is {WORDS[word]}'}")
    return {**WORDS, **more}


def channel_of(text: str | None, known: Mapping[str, str] = WORDS) -> str | None:
    """The channel that a text means, whatever its case and the blanks around it; None of a text that means none.

    known: of `words`.
    """
    return None if text is None else known.get(_plain(text))


def is_online(channel: str | None) -> bool | None:
    """Whether a payment was made online; None where its channel is not known."""
    return channel == ONLINE if channel in CHANNELS else None
