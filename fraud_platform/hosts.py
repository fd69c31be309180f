"""Which names a server of this machine answers to, and which web pages may speak to it.

What belongs here: Host and Origin. What does not: who a caller is (`decision.access`), how a refusal is said. A browser
lets every page send requests to this machine, and under a name that its owner points here (DNS rebinding) lets it read
the answers. Such a request bears the page's name: as its Host, or as its Origin.
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Hosts:
    """The names of one server, at any port. An IP address is taken too: nobody can let one point somewhere else."""

    def __init__(self, names: Iterable[str]) -> None:
        """names: beside those of loopback."""
        self._given = frozenset(name.lower() for name in names)
        self._names = self._given | frozenset(LOOPBACK)
        self._usual = frozenset(bracketed(name).encode() for name in self._names)

    def knows(self, host: bytes) -> bool:
        """Whether a Host header names this server. Without one it is no browser's."""
        # most are as they are written here, and cost a payment nothing but this
        name, _, port = host.rpartition(b":")
        return not host or (name in self._usual and port.isdigit()) or self._is_ours(host)

    def welcomes(self, origin: bytes, host: bytes) -> bool:
        """Whether a page may speak to this server: one that came from it, under the name that was asked for or one that
        was given, as where a proxy asks by another. What sends no Origin is no page."""
        if not origin:
            return True
        try:
            parts = urlsplit(origin.decode("latin-1").lower())
            name = parts.hostname
        except ValueError:
            return False
        ours = parts.netloc.encode("latin-1") == host.lower() or name in self._given
        return parts.scheme in ("http", "https") and ours

    def _is_ours(self, host: bytes) -> bool:
        try:
            name = urlsplit(f"//{host.decode('latin-1')}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def bracketed(name: str) -> str:
    """A name as it stands in a URL: an IPv6 address in brackets."""
    return f"[{name}]" if ":" in name else name
