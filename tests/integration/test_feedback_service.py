"""Labels over HTTP: callers kept apart, corrected and outranked ones, unknown payments, floods; and the night after."""

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
import redis
from service_kit import fill_online_store, free_port, publish_small_model
from test_service import ROOT, payment, serve, wait_for, wait_until_ready

from fraud_platform.decision.api_keys import add_key, keys_path
from fraud_platform.features import tables
from fraud_platform.features.label_rules import DistrustFile, LabelRules, distrust
from fraud_platform.inference_log.record import DecisionRecord, encode_record
from fraud_platform.inference_log.spool import read_spool
from fraud_platform.inference_log.table import LogTable, rows
from fraud_platform.ingest.source import open_source
from fraud_platform.ingest.steps import ingest_labels
from fraud_platform.ingest.waiting import waiting_standing
from fraud_platform.lake import Lake
from fraud_platform.model.data import labels_before
from fraud_platform.monitoring.performance import performance
from fraud_platform.quality import evaluate, every_label_has_a_payment
from fraud_platform.settings import Settings

PER_MINUTE = 120
WAITING = 12
CALLERS = ("ann", "bob", "cyd", "dan", "eve", "fay")


class Platform:
    """A running service with keys, and the night after it."""

    def __init__(self, http: httpx.Client, home: Path, keys: dict[str, str]) -> None:
        self.http = http
        self.settings = Settings(home=home, users=50, merchants=10, transactions_per_day=20)
        self.lake = Lake(self.settings.lake)
        self._keys = keys

    def decide(self, caller: str, name: str, **changes: Any) -> DecisionRecord:
        """A decided payment's record."""
        answer = self.http.post(
            "/v1/predict", json=payment(transaction_id=name, **changes), headers=self._shown(caller)
        )
        assert answer.status_code == 200, answer.text
        (made,) = [one for one in self.decided() if (one.caller, one.request.transaction_id) == (caller, name)]
        return made

    def decided(self) -> list[DecisionRecord]:
        """Every decision of yesterday and today."""
        return [one for day in self.days() for one in read_spool(self.settings.home, day)]

    def label(self, caller: str, name: str, state: str, **fields: Any) -> httpx.Response:
        body = {"transaction_id": name, "state": state, **fields}
        return self.http.post("/v1/feedback", json=body, headers=self._shown(caller))

    def _shown(self, caller: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self._keys[caller]}"}

    @staticmethod
    def days() -> list[date]:
        today = datetime.now(UTC).date()
        return [today - timedelta(days=1), today]

    def night(self) -> dict[tuple[str, str], bool | None]:
        """Ingest the labels; what is known of each caller's payments then."""
        ingest_labels(self.lake, open_source(self.settings, self.days()[0]), self.days())
        tomorrow = self.days()[1] + timedelta(days=1)
        known = labels_before(self.lake, tomorrow, LabelRules()).to_pylist()
        return {(row["caller"], row["transaction_id"]): row["is_fraud"] for row in known}


@pytest.fixture(scope="module")
def platform(redis_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("feedback")
    client = redis.Redis.from_url(redis_server)
    client.flushall()
    fill_online_store(client)
    publish_small_model(home, version=7, seed=1)
    scopes = ["decide", "feedback"]
    keys = {caller: add_key(keys_path(home), caller, scopes, datetime.now(UTC))[0] for caller in CALLERS}
    port = free_port()
    command, environment = serve(home, redis_server, port)
    environment |= {"FRAUD_FEEDBACK_PER_MINUTE": str(PER_MINUTE), "FRAUD_FEEDBACK_WAITING": str(WAITING)}
    log = home / "service.log"
    with log.open("wb") as output:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            wait_until_ready(http, server, log)
            yield Platform(http, home, keys)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
        client.close()


def test_one_callers_labels_do_not_touch_anothers_payment(platform: Platform) -> None:
    made = {caller: platform.decide(caller, "same-id") for caller in ("ann", "bob")}
    confirmed = platform.label("ann", "same-id", "confirmed", source="chargeback")
    cleared = platform.label("bob", "same-id", "cleared", source="chargeback", revision=1_000_000)
    assert (confirmed.status_code, cleared.status_code) == (202, 202)
    assert confirmed.json()["counts"] == cleared.json()["counts"] == "from the next nightly run"
    known = platform.night()
    assert (known["ann", "same-id"], known["bob", "same-id"]) == (True, False)
    # what the decisions were worth goes by the caller too
    day = made["ann"].day
    LogTable(platform.lake).commit(rows((each, encode_record(each)) for each in made.values()), {})
    (figures,) = performance(platform.lake, platform.settings, day).to_pylist()
    assert (figures["decisions"], figures["labelled"], figures["frauds"]) == (2, 2, 1)


def test_the_life_of_a_dispute(platform: Platform) -> None:
    platform.decide("cyd", "dispute")
    opened = platform.label("cyd", "dispute", "suspected", source="investigator").json()
    confirmed = platform.label("cyd", "dispute", "confirmed", source="chargeback", revision=2).json()
    assert opened["counts"] == confirmed["counts"] == "from the next nightly run"
    late = platform.label("cyd", "dispute", "cleared", source="chargeback").json()
    assert late["counts"] == "outranked by chargeback revision 2"
    analyst = platform.label("cyd", "dispute", "cleared", source="investigator", revision=2).json()
    assert analyst["counts"] == "outranked by chargeback revision 2"
    assert platform.night()["cyd", "dispute"] is True
    reversed_ = platform.label("cyd", "dispute", "cleared", source="chargeback", revision=3).json()
    assert reversed_["standing"] == {"source": "chargeback", "revision": 3, "state": "cleared"}
    assert platform.night()["cyd", "dispute"] is False


def test_a_wrong_date_yields_to_the_decisions(platform: Platform) -> None:
    on = platform.decide("cyd", "wrong-date").day
    wrong = (on - timedelta(days=9)).isoformat()
    answer = platform.label("cyd", "wrong-date", "confirmed", transaction_date=wrong)
    told = answer.json()
    assert (answer.status_code, told["transaction_date"], told["sent_transaction_date"]) == (202, str(on), wrong)
    assert platform.night()["cyd", "wrong-date"] is True


def test_corrected_labels_pass_the_nights_checks(platform: Platform) -> None:
    platform.decide("dan", "corrected")
    states = ("confirmed", "cleared", "confirmed", "cleared")
    assert [platform.label("dan", "corrected", state).status_code for state in states] == [202] * 4
    assert platform.night()["dan", "corrected"] is False
    findings = evaluate(platform.settings, platform.lake, tables.FRAUD_LABELS, platform.days(), platform.days()[1])
    assert [finding for finding in findings if not finding.passed] == []


def test_labels_of_unknown_payments_wait_apart_and_join_what_comes(platform: Platform) -> None:
    yesterday = platform.days()[0]
    told = platform.label("eve", "imported", "confirmed", transaction_date=str(yesterday))
    assert told.status_code == 202, told.text
    assert told.json()["counts"][:8] == "waiting:"
    # a worker's first look into the log may take longer than an answer may: 503, try again
    wait_for(lambda: platform.label("eve", "imported", "confirmed").status_code == 404)
    assert ("eve", "imported") not in platform.night()
    facts = every_label_has_a_payment(platform.settings.home, platform.lake, platform.days()).facts
    assert facts["waiting_by_caller"]["eve"] == 1
    paid = pa.table({"transaction_id": ["imported"], "caller": ["eve"], "is_duplicate": [False]})
    platform.lake.write(tables.RAW_TRANSACTIONS, yesterday, paid)
    assert platform.night()["eve", "imported"] is True
    assert waiting_standing(platform.settings.home, platform.lake).waiting["eve"] == 0


def test_a_thousand_labels_of_unknown_payments_are_not_taken(platform: Platform) -> None:
    yesterday = str(platform.days()[0])
    answers = [platform.label("fay", f"made-up-{n}", "confirmed", transaction_date=yesterday) for n in range(200)]
    statuses = Counter(answer.status_code for answer in answers)
    assert set(statuses) == {202, 429}
    assert statuses[202] <= WAITING
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.json()["type"] for answer in refused} == {"urn:fraud-platform:problem:rate-limited"}
    assert {answer.headers["retry-after"] for answer in refused} <= {"1", "3600"}
    assert "labels of yours wait" in " ".join(answer.json()["detail"] for answer in refused)
    # nobody else waits for it
    platform.decide("ann", "beside")
    assert platform.label("ann", "beside", "cleared").status_code == 202


def test_a_distrusted_caller_is_told_so(platform: Platform) -> None:
    platform.decide("dan", "believed")
    event = distrust(who="me", why="key stolen", now=datetime.now(UTC), caller="dan")
    DistrustFile(platform.settings.home).append(event)
    answer = platform.label("dan", "believed", "cleared")
    assert (answer.status_code, answer.json()["counts"][:10]) == (202, "distrusted")
    assert "standing" not in answer.json()
