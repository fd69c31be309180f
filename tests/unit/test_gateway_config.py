"""The gateway's configuration: the committed example is what the defaults render, limits are the service's."""

import re
from pathlib import Path

import pytest

from bento import gateway as service
from fraud_platform.gateway import config
from fraud_platform.gateway.config import GatewayError, render
from fraud_platform.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "gateway" / "nginx.conf"


def test_the_example_is_what_the_template_renders() -> None:
    """On purpose changed: `python -m tests.unit.test_gateway_config` writes it anew."""
    assert EXAMPLE.read_text() == example()


def example() -> str:
    """With the settings' defaults, in /srv/fraud, a tenth of the payments for green."""
    return render(Settings(home=Path("/srv/fraud")), {"blue": 90, "green": 10})


def test_bodies_are_limited_as_the_service_limits_them() -> None:
    assert (config.MAX_BODY, config.MAX_BATCH) == (service.MAX_BODY, service.MAX_BATCH)


def test_callers_routes_are_the_service_s_and_nothing_of_admin() -> None:
    text = example()
    for route in service._POSTS:
        assert (f"location = {route} " in text) == (not route.startswith("/v1/admin/")), route


def test_what_is_sent_on_is_written_in_the_configuration() -> None:
    location = ""
    for line in example().splitlines():
        if found := re.match(r" *location = (\S+) {", line):
            location = found[1]
        if "proxy_pass" in line:
            assert re.fullmatch(rf" *proxy_pass http://(decisions|service){re.escape(location)};", line), line


@pytest.mark.parametrize(
    ("weights", "lines"),
    [
        ({"blue": 100}, ["10.0.0.1:1 weight=100", "10.0.0.2:1 weight=100", "127.0.0.1:3003 max_fails=0 backup"]),
        ({"green": 100}, ["10.0.0.3:1 weight=100", "127.0.0.1:3003 max_fails=0 backup"]),
        ({}, ["127.0.0.1:3003 max_fails=0;"]),
    ],
)
def test_payments_go_to_the_colours_in_rotation_and_then_to_the_rules(weights: dict, lines: list[str]) -> None:
    settings = Settings(gateway_blue=["10.0.0.1:1", "10.0.0.2:1"], gateway_green=["10.0.0.3:1"])
    decisions = render(settings, weights).partition("upstream decisions")[2].partition("}")[0]
    found = [line.strip() for line in decisions.splitlines() if line.strip().startswith("server ")]
    assert len(found) == len(lines)
    for line, expected in zip(found, lines, strict=True):
        assert line.startswith(f"server {expected}")


def test_a_colour_without_servers_gets_no_payments() -> None:
    with pytest.raises(GatewayError, match="FRAUD_GATEWAY_GREEN"):
        render(Settings(gateway_green=[]), {"green": 100})


def test_in_a_container_the_log_goes_out_and_workers_are_counted() -> None:
    text = render(Settings(gateway_workers=2, gateway_access_log=Path("/dev/stdout")), {"blue": 100})
    assert "worker_processes 2;" in text
    assert "access_log /dev/stdout line" in text


def test_an_ipv6_address_is_written_in_brackets() -> None:
    assert "listen [::1]:8443 ssl http2;" in render(Settings(gateway_host="::1"), {"blue": 100})


def test_half_a_certificate_and_half_an_issuer_are_refused() -> None:
    with pytest.raises(ValueError, match="set gateway_certificate and gateway_certificate_key together"):
        Settings(gateway_certificate=Path("a.pem"))
    with pytest.raises(ValueError, match="needs jwt_issuer and jwt_audience"):
        Settings(jwt_keys=Path("keys.json"), jwt_issuer="https://idp.example")


if __name__ == "__main__":
    EXAMPLE.write_text(example())
