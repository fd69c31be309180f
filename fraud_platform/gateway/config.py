"""From settings and weights to nginx's configuration.

What belongs here: where the gateway's files lie, which servers stand behind it, filling in the template. What does not:
processes (`nginx`), changes of weights (`switch`).
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Literal, get_args

from fraud_platform.decision.access import is_loopback
from fraud_platform.decision.problem import (
    CONTENT_TYPE,
    Problem,
    bad_request,
    not_found,
    rate_limited,
    unavailable,
)
from fraud_platform.settings import Settings

Colour = Literal["blue", "green"]
COLOURS: tuple[Colour, ...] = get_args(Colour)
Weights = Mapping[Colour, int]
"""Per cent of payments that a colour gets; one that is absent gets none. No colour at all: the rules alone decide."""

TEMPLATE = Path(__file__).resolve().parents[2] / "deploy" / "gateway" / "nginx.conf.template"
HOST = "127.0.0.1"
MAX_BODY = 64 * 1024
MAX_BATCH = 512 * 1024
"""Bytes of a body; a test holds them against the service's own limits."""

CONNECTIONS = 8_192
"""Connections of one of nginx's processes, those to the servers behind among them."""

DRAIN_SECONDS = 10
SLOW_SECONDS = 5
"""How long an explanation, a label, a report or a batch may take; the service's own limit is below."""
CONNECT_MS = 100


class _Filled(Template):
    """`%{name}`: nginx has its own use for the dollar."""

    delimiter = "%"


class GatewayError(RuntimeError):
    """What is asked of the gateway cannot be done; the message says why."""


def folder(settings: Settings) -> Path:
    """Where the gateway's files lie; absolute."""
    return settings.home.absolute() / "gateway"


def servers(settings: Settings, colour: Colour) -> list[str]:
    """Addresses (host:port) of a colour's servers."""
    given = settings.gateway_blue if colour == "blue" else settings.gateway_green
    return given or ([f"{HOST}:{settings.service_port}"] if colour == "blue" else [])


def certificate_files(settings: Settings) -> tuple[Path, Path]:
    """Certificate and key: those of the settings, else where the self-signed ones lie."""
    if settings.gateway_certificate and settings.gateway_certificate_key:
        return settings.gateway_certificate.absolute(), settings.gateway_certificate_key.absolute()
    return folder(settings) / "certificate.pem", folder(settings) / "certificate.key"


def render(settings: Settings, weights: Weights) -> str:
    """The configuration as nginx reads it. Raises GatewayError for a colour without servers."""
    certificate, key = certificate_files(settings)
    rules = f"{HOST}:{settings.rules_port}"
    serving = [line for colour in COLOURS if weights.get(colour) for line in _lines(settings, colour, weights[colour])]
    values = {
        "folder": folder(settings),
        "workers": settings.gateway_workers or "auto",
        "connections": CONNECTIONS,
        "address_connections": settings.gateway_address_connections,
        # a batch is eight times as long as a payment, and lies in memory while it comes
        "address_batches": max(1, settings.gateway_address_connections // (MAX_BATCH // MAX_BODY)),
        "access_log": settings.gateway_access_log or folder(settings) / "access.log",
        "address": _address(settings.gateway_host, settings.gateway_port),
        "certificate": certificate,
        "certificate_key": key,
        "rate": settings.gateway_rate,
        "address_rate": settings.gateway_address_rate,
        # what may come at once: a fifth of a second's worth
        "burst": max(1, settings.gateway_rate // 5),
        "address_burst": max(1, settings.gateway_address_rate // 5),
        "max_body": MAX_BODY,
        "max_batch": MAX_BATCH,
        "body_buffer": 2 * MAX_BODY,
        "batch_buffer": 2 * MAX_BATCH,
        "timeout_ms": settings.gateway_timeout_ms,
        "connect_ms": min(CONNECT_MS, settings.gateway_timeout_ms),
        "slow_seconds": SLOW_SECONDS,
        "drain_seconds": DRAIN_SECONDS,
        # the rules' process is never left alone for its failures: nobody comes after it
        "decision_servers": _indented([*serving, f"server {rules} max_fails=0{' backup' if serving else ''};"]),
        "service_servers": _indented(serving or ["server 127.0.0.1:1 down;"]),
        "problems": _problems(settings),
    }
    return _Filled(TEMPLATE.read_text()).substitute(values)


def _lines(settings: Settings, colour: Colour, weight: int) -> list[str]:
    """A server that fails three times in two seconds is left alone for as long."""
    found = servers(settings, colour)
    if not found:
        raise GatewayError(f"there is no {colour} server: set FRAUD_GATEWAY_{colour.upper()}")
    return [f"server {address} weight={weight} max_fails=3 fail_timeout=2s;  # {colour}" for address in found]


def _indented(lines: list[str]) -> str:
    return "\n".join(" " * 8 + line for line in lines)


def _address(host: str, port: int) -> str:
    try:
        return f"[{host}]:{port}" if ipaddress.ip_address(host).version == 6 else f"{host}:{port}"
    except ValueError:
        return f"{host}:{port}"


def _problems(settings: Settings) -> str:
    """The problem documents of nginx's own errors, one location each, which callers do not reach."""
    documents: dict[str, Problem] = {
        "= /bad_request": bad_request("HTTPS with a sound request line and headers below 8 KiB is needed"),
        "@not_found": not_found("no such route"),
        "@too_large": Problem(
            413, "body-too-large", "The body is too large", f"at most {MAX_BODY} bytes are read, {MAX_BATCH} of a batch"
        ),
        "@rate_limited": rate_limited(
            f"at most {settings.gateway_rate} requests a second, and of an address "
            f"{settings.gateway_address_connections} at once, an eighth of them batches; try again in a second"
        ),
        "@unavailable": unavailable(),
    }
    kind = CONTENT_TYPE.decode()
    return _indented(
        [
            f"location {place} {{ internal; default_type {kind}; return {one.status} '{one.body().decode()}'; }}"
            for place, one in documents.items()
        ]
    )


def needs_keys(settings: Settings) -> bool:
    """Whether callers reach the service from elsewhere, be it through the gateway, so that it must not stand open."""
    return not (is_loopback(settings.service_host) and is_loopback(settings.gateway_host))
