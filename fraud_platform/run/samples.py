"""A few payments to decide once the service is up: what a newcomer sees first.

What belongs here: choosing and sending them. What does not: deciding. Users and merchants are taken from the newest day
of the lake, so that their features are there.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from fraud_platform.currency import exponent
from fraud_platform.lake import Lake

TABLE = "raw_transactions"
COLUMNS = ["user_id", "merchant_id", "amount", "country", "user_country", "merchant_category", "channel", "device_id"]
HOME_COUNTRY, ABROAD = "DE", "BR"
"""Used where the history knows no countries."""

TESTS_PER_BURST = 5


@dataclass(frozen=True)
class Sample:
    """One payment as a caller sends it."""

    story: str
    payment: dict[str, Any]


@dataclass(frozen=True)
class Decided:
    """A sample and what the service answered: HTTP status and JSON."""

    sample: Sample
    status: int
    answer: dict[str, Any]


def choose_samples(lake: Lake, base_currency: str, now: datetime) -> list[Sample]:
    """An ordinary payment, a burst that tests a card and then uses it, and a large one abroad from a new device.

    Empty when the lake holds no transactions. Timestamps end at `now`; amounts are in the base currency.
    """
    rows: list[dict[str, Any]] = []
    for day in reversed(lake.days(TABLE)):
        rows = [row for row in lake.read(TABLE, day, COLUMNS).to_pylist() if row["amount"] is not None]
        if rows:
            break
    if not rows:
        return []
    rows.sort(key=lambda row: (row["amount"], row["user_id"], row["merchant_id"]))
    ordinary, tested, traveller = (_row_near(rows, share) for share in (0.5, 0.6, 0.7))
    large = 3 * rows[int(0.99 * (len(rows) - 1))]["amount"]
    countries = Counter(row["country"] for row in rows if row["country"])
    home = traveller["user_country"] or traveller["country"] or HOME_COUNTRY
    abroad = next((country for country, _ in countries.most_common() if country != home), ABROAD)
    batch = f"{now:%Y%m%dT%H%M%S}"
    samples: list[Sample] = []

    def add(story: str, row: dict[str, Any], seconds_ago: int, **changes: Any) -> None:
        payment = {**row, **changes, "currency": base_currency, "transaction_id": f"sample-{batch}-{len(samples) + 1}"}
        payment["country"] = payment["country"] or payment["user_country"] or HOME_COUNTRY
        payment["amount"] = float(Decimal(payment["amount"]).scaleb(-exponent(base_currency)))
        payment["timestamp"] = (now - timedelta(seconds=seconds_ago)).isoformat()
        samples.append(Sample(story, {name: value for name, value in payment.items() if value is not None}))

    add("an ordinary payment", ordinary, 60)
    stranger = f"device-{batch}"
    for attempt in range(TESTS_PER_BURST):
        small = 100 + 7 * attempt
        add("a card is tested", tested, 50 - 5 * attempt, amount=small, channel="online", device_id=stranger)
    add("… and then used", tested, 10, amount=large, channel="online", device_id=stranger)
    add("large, abroad, new device", traveller, 0, amount=large, country=abroad, device_id=f"{stranger}-2")
    return samples


def decide_samples(samples: list[Sample], url: str) -> list[Decided]:
    """Send each to `POST <url>/v1/predict`, in order. Raises httpx.HTTPError when nobody answers."""
    decided = []
    with httpx.Client(base_url=url, timeout=10) as client:
        for sample in samples:
            response = client.post("/v1/predict", json=sample.payment)
            decided.append(Decided(sample, response.status_code, response.json()))
    return decided


def _row_near(rows: list[dict[str, Any]], share: float) -> dict[str, Any]:
    return rows[int(share * (len(rows) - 1))]
