"""Telling people: one message per cause, by webhook, Slack or e-mail.

What belongs here: when a cause is told again, and how a message is delivered. What does not: which causes there are
(`signals`, the sensors). An alert is a failed check or an event in Dagster first; this is what wakes somebody.
"""

import json
import smtplib
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx

from fraud_platform.model.bundle import exclusive, replace_file

_SECONDS = 10.0
_SCHEMES = ("http", "https", "slack+https", "mailto")


class NotifyError(RuntimeError):
    """An alert could not be delivered; it counts as not told, and is tried again at the next tick."""


@dataclass(frozen=True)
class Alert:
    """One trouble. Two alerts of the same cause and subject are the same trouble."""

    cause: str
    subject: str
    text: str

    @property
    def key(self) -> str:
        """What makes it the same trouble."""
        return f"{self.cause}/{self.subject}"


def check_address(address: str) -> str:
    """The address itself. Raises ValueError for one that no alert can be sent to."""
    parts = urlsplit(address)
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{address!r} begins with none of {', '.join(f'{scheme}:' for scheme in _SCHEMES)}")
    if parts.scheme == "mailto" and not ("@" in parts.path and "smtp" in parse_qs(parts.query)):
        raise ValueError(f"{address!r} is not mailto:whom@example.org?smtp=host:port")
    return address


class AlertBook:
    """What was told when, under `<home>/alerts`: `told.json` for repeats, `alerts.jsonl` for people."""

    def __init__(self, home: Path, addresses: list[str], quiet: timedelta) -> None:
        """addresses: as `check_address` takes them; none: alerts are written down alone. quiet: for how long the same
        trouble is not told again."""
        self._folder = home / "alerts"
        self._addresses = addresses
        self._quiet = quiet

    def tell(self, alerts: list[Alert], now: datetime) -> list[Alert]:
        """Deliver what was not told lately; returns it. now: with a time zone. Raises NotifyError after trying all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        failed: list[str] = []
        new = []
        with exclusive(self._folder / ".lock"):
            told = self._told()
            for alert in alerts:
                last = told.get(alert.key)
                if last is not None and now - datetime.fromisoformat(last) < self._quiet:
                    continue
                errors = [error for address in self._addresses if (error := _deliver(address, alert))]
                failed += errors
                if errors and len(errors) == len(self._addresses):
                    continue
                told[alert.key] = now.isoformat()
                new.append(alert)
            if new:
                line = "".join(json.dumps({"at": now.isoformat(), **vars(alert)}) + "\n" for alert in new)
                with (self._folder / "alerts.jsonl").open("a") as file:
                    file.write(line)
                replace_file(self._folder / "told.json", json.dumps(told, indent=2, sort_keys=True).encode())
        if failed:
            raise NotifyError("; ".join(failed))
        return new

    def _told(self) -> dict[str, str]:
        path = self._folder / "told.json"
        told: dict[str, str] = json.loads(path.read_bytes()) if path.exists() else {}
        return told


def _deliver(address: str, alert: Alert) -> str | None:
    """What went wrong, or None. Neither query nor path of an address is shown: both may hold secrets."""
    parts = urlsplit(address)
    try:
        if parts.scheme == "mailto":
            _mail(parts.path, parse_qs(parts.query)["smtp"][0], alert)
        elif parts.scheme == "slack+https":
            _post(address.removeprefix("slack+"), {"text": f"*{alert.cause}* {alert.text}"})
        else:
            _post(address, {"cause": alert.cause, "subject": alert.subject, "text": alert.text})
    except (httpx.HTTPError, smtplib.SMTPException, OSError) as error:
        return f"{parts.scheme}://{parts.hostname or parts.path} did not take an alert: {type(error).__name__}"
    return None


def _post(url: str, body: dict[str, str]) -> None:
    httpx.post(url, json=body, timeout=_SECONDS).raise_for_status()


def _mail(to: str, server: str, alert: Alert) -> None:
    host, _, port = server.partition(":")
    message = EmailMessage()
    message["To"], message["From"] = to, f"fraud-platform@{host}"
    message["Subject"] = f"[fraud-platform] {alert.cause}: {alert.subject}"
    message.set_content(alert.text)
    with smtplib.SMTP(host, int(port or 25), timeout=_SECONDS) as smtp:
        smtp.send_message(message)
