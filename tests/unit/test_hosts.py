"""Host and Origin: what a page of somebody else sends is told from what a caller or a page of ours sends."""

import pytest

from fraud_platform.hosts import Hosts

HOSTS = Hosts(["Fraud.example"])


@pytest.mark.parametrize(
    "host",
    [
        "localhost:3001", "localhost", "LOCALHOST:3001", "127.0.0.1:3001", "127.0.0.1:9", "[::1]:3001", "10.2.3.4:3001",
        "[fe80::1]", "fraud.example", "FRAUD.example:443", "",
    ],
)  # fmt: skip
def test_its_own_names_and_addresses_are_taken(host: str) -> None:
    assert HOSTS.knows(host.encode())


@pytest.mark.parametrize(
    "host",
    [
        "attacker.example", "attacker.example:3001", "localhost.attacker.example:3001", "127.0.0.1.attacker.example",
        "10.attacker.example", "192.168.attacker.example:5000", "fraud.example.attacker.example", "x@y", "[::1",
        "127.0.0.1:3001@attacker.example", "2130706433", "0x7f.1", "\xff",
    ],
)  # fmt: skip
def test_any_other_name_is_refused(host: str) -> None:
    assert not HOSTS.knows(host.encode("latin-1"))


@pytest.mark.parametrize(
    ("origin", "host", "welcome"),
    [
        ("", "localhost:3001", True),
        ("http://localhost:3001", "localhost:3001", True),
        ("http://LOCALHOST:3001", "localhost:3001", True),
        ("https://fraud.example", "10.0.0.1:3001", True),
        ("http://localhost:8080", "localhost:3001", False),
        ("http://127.0.0.1:3001", "localhost:3001", False),
        ("https://attacker.example", "localhost:3001", False),
        ("null", "localhost:3001", False),
        ("file://", "", False),
        ("http://[::1", "localhost:3001", False),
        ("http://localhost:3001.attacker.example", "localhost:3001", False),
    ],
)
def test_a_page_is_welcome_where_it_came_from(origin: str, host: str, welcome: bool) -> None:
    assert HOSTS.welcomes(origin.encode(), host.encode()) is welcome
