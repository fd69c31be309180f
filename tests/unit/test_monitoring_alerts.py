"""Who is told what, and when again."""

import smtplib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from fraud_platform.monitoring.alerts import Alert, AlertBook, NotifyError
from fraud_platform.settings import Settings

NOW = datetime(2026, 3, 1, tzinfo=UTC)
TROUBLE = Alert("feature_psi", "amount", "amount has drifted")


def test_the_same_trouble_is_told_once_until_the_quiet_is_over(tmp_path: Path) -> None:
    book = AlertBook(tmp_path, [], timedelta(hours=24))
    assert book.tell([TROUBLE], NOW) == [TROUBLE]
    assert AlertBook(tmp_path, [], timedelta(hours=24)).tell([TROUBLE], NOW + timedelta(hours=23)) == []
    assert book.tell([Alert("feature_psi", "country", "…")], NOW)[0].subject == "country"
    assert book.tell([TROUBLE], NOW + timedelta(hours=24)) == [TROUBLE]
    assert len((tmp_path / "alerts" / "alerts.jsonl").read_text().splitlines()) == 3


def test_an_address_that_refuses_names_itself_and_no_secret(tmp_path: Path) -> None:
    book = AlertBook(tmp_path, ["http://127.0.0.1:1/secret-hook"], timedelta(hours=1))
    with pytest.raises(NotifyError, match=r"http://127\.0\.0\.1 did not take") as caught:
        book.tell([TROUBLE], NOW)
    assert "secret-hook" not in str(caught.value)
    assert not (tmp_path / "alerts" / "told.json").exists()


def test_mail_goes_to_the_server_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    class Server:
        def __init__(self, host: str, port: int, timeout: float) -> None:
            sent.append((host, port))

        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None: ...

        def send_message(self, message: Any) -> None:
            sent.append((message["To"], message["Subject"], message.get_content().strip()))

    monkeypatch.setattr(smtplib, "SMTP", Server)
    AlertBook(tmp_path, ["mailto:ops@bank.example?smtp=mail.bank.example:2525"], timedelta(1)).tell([TROUBLE], NOW)
    assert sent == [
        ("mail.bank.example", 2525),
        ("ops@bank.example", "[fraud-platform] feature_psi: amount", "amount has drifted"),
    ]


@pytest.mark.parametrize("address", ["ftp://x", "ops@bank.example", "mailto:ops@bank.example"])
def test_an_address_that_cannot_be_told_is_refused_by_the_settings(address: str) -> None:
    with pytest.raises(ValidationError, match="notify"):
        Settings(notify=[address])
