"""Changing which colour gets payments: asked whether it is ready, tested, noted in the ledger, reloaded, or put back.

What belongs here: the weights in force and their changes. What does not: what a configuration looks like (`config`).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import cast

import httpx

from fraud_platform.gateway import nginx
from fraud_platform.gateway.config import COLOURS, Colour, GatewayError, Weights, folder, render, servers
from fraud_platform.model.bundle import exclusive, releases, replace_file
from fraud_platform.model.ledger import Change, append_change, read_ledger
from fraud_platform.model.release import Reason
from fraud_platform.settings import Settings

FIRST: dict[Colour, int] = {"blue": 100}
"""The weights before anything was changed."""

READY_SECONDS = 2.0


def weights_in_force(settings: Settings) -> dict[Colour, int]:
    """Per cent of payments that each colour gets; colours that get none are left out."""
    try:
        return cast(dict[Colour, int], json.loads(_record(settings).read_bytes()))
    except FileNotFoundError:
        return dict(FIRST)


def switch(settings: Settings, colour: Colour, reason: Reason, now: datetime) -> None:
    """Give a colour every payment. Raises GatewayError when it is not ready; nothing has changed then."""
    _change(settings, {colour: 100}, reason, now)


def split(settings: Settings, colour: Colour, percent: int, reason: Reason, now: datetime) -> None:
    """Give a colour `percent` of the payments, each by lot, and the other the rest. Raises GatewayError."""
    if not 0 < percent < 100:
        raise GatewayError(f"a split gives a colour 1 to 99 per cent, got {percent}; use `switch` for all")
    other = _other(colour)
    _change(settings, {colour: percent, other: 100 - percent}, reason, now)


def drain(settings: Settings, colour: Colour, reason: Reason, now: datetime) -> None:
    """Give a colour no payment any more, so that its servers can be ended; where it was the only one, the rules decide.

    When this returns, no connection of the gateway to that colour is left.
    """
    other = _other(colour)
    _change(settings, {other: 100} if other in weights_in_force(settings) else {}, reason, now)


def roll_back(settings: Settings, reason: Reason, now: datetime) -> dict[Colour, int]:
    """Return to the weights before the last change, and say them. Raises GatewayError where there was none."""
    changes = [entry for entry in read_ledger(settings.home) if entry["what"] == "gateway"]
    if not changes:
        raise GatewayError("there is nothing to undo: the gateway's weights were never changed")
    before = cast(dict[Colour, int], changes[-1]["from"])
    _change(settings, before, reason, now)
    return before


def reload(settings: Settings) -> None:
    """Render the configuration anew, with the weights in force, and take it up: other settings, a new certificate."""
    with _changing(settings):
        nginx.put(folder(settings), render(settings, weights_in_force(settings)))
        nginx.reload(folder(settings))


def readiness(address: str) -> list[str] | None:
    """What a server (host:port) lacks by its own words; None when it does not answer as one that is ready.

    Breakers of stores are left out: a store that is missing is named itself, and its breaker comes and goes.
    """
    try:
        response = httpx.get(f"http://{address}/readyz", timeout=READY_SECONDS, trust_env=False)
        said = response.json()
        lacks = [name for name in said["degraded"] if name != "breakers"]
        champion = said.get("checks", {}).get("breakers", {}).get("champion", "closed")
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if response.status_code != httpx.codes.OK:
        return None
    return lacks if champion == "closed" else [*lacks, "champion"]


def _change(settings: Settings, weights: Weights, reason: Reason, now: datetime) -> None:
    """The ledger before the reload: what is in force was always announced. What fails is put back, and that noted."""
    where = folder(settings)
    with _changing(settings):
        before = weights_in_force(settings)
        if weights == before:
            return
        if nginx.master(where) is None:
            raise GatewayError(f"no gateway of {settings.home} runs: start it with `fraud-platform gateway start`")
        _check_ready(settings, weights, before)
        nginx.put(where, render(settings, weights))
        try:
            _note(settings, weights, before, reason, now)
            nginx.reload(where)
            _check_serves(settings)
        except GatewayError as error:
            nginx.put(where, render(settings, before))
            back = Reason(who=reason.who, why=f"the change before failed: {error}")
            _note(settings, before, weights, back, now)
            nginx.reload(where)
            raise


def _check_ready(settings: Settings, weights: Weights, before: Weights) -> None:
    """Every server that is to get payments answers, and a colour that comes new lacks nothing that the others have."""
    found = {
        (colour, address): readiness(address)
        for colour in COLOURS
        if colour in weights or colour in before
        for address in servers(settings, colour)
    }
    standing = [lacks for (colour, _), lacks in found.items() if colour in before and lacks is not None]
    lacked = {name for lacks in standing for name in lacks}
    for (colour, address), lacks in found.items():
        if colour not in weights:
            continue
        if lacks is None:
            raise GatewayError(f"{colour} is not ready: {address} does not answer /readyz with 200")
        # where nobody else stands, and so the rules decide, whoever answers is better
        if standing and colour not in before and (more := sorted(set(lacks) - lacked)):
            raise GatewayError(f"{colour} is not ready: {address} lacks {', '.join(more)}, which the others have")


def _check_serves(settings: Settings) -> None:
    """Ask through the gateway, as a caller would. Its certificate is not looked at: this is a question to ourselves."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.gateway_host, settings.gateway_host)
    url = f"https://{host}:{settings.gateway_port}/readyz"
    try:
        status = httpx.get(url, timeout=READY_SECONDS, trust_env=False, verify=False).status_code
    except httpx.HTTPError as error:
        raise GatewayError(f"the gateway does not answer at {url}: {error or type(error).__name__}") from error
    if status != httpx.codes.OK:
        raise GatewayError(f"the gateway answers {status} at {url}")


def _note(settings: Settings, weights: Weights, before: Weights, reason: Reason, now: datetime) -> None:
    with exclusive(releases(settings.home) / ".promotion.lock"):
        append_change(
            settings.home,
            Change(at=now, who=reason.who, why=reason.why, what="gateway", was=dict(before), to=dict(weights)),
        )
    replace_file(_record(settings), json.dumps(dict(weights)).encode())


@contextmanager
def _changing(settings: Settings) -> Iterator[None]:
    with exclusive(folder(settings) / "change.lock"):
        yield


def _other(colour: Colour) -> Colour:
    return "green" if colour == "blue" else "blue"


def _record(settings: Settings) -> Path:
    return folder(settings) / "weights.json"
