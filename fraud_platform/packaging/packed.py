"""The release that travels inside a Bento, and how a home starts from it.

What belongs here: packing a home's champion, and putting it into force where the Bento starts. What does not: BentoML
(`bento.image`), promotions (`model.registry`).
"""

import hashlib
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from fraud_platform.model.bundle import (
    DECIDING,
    Bundle,
    BundleError,
    NoReleaseError,
    current_release,
    exclusive,
    install,
    publish,
    releases,
)
from fraud_platform.model.ledger import Change, append_change
from fraud_platform.packaging.requirements import serving_requirements

PACKED = "release"
"""Folder of a Bento's code that holds the folder of its one release."""
BENTOFILE = "bentofile.yaml"
CODE = ("bento/*.py", "fraud_platform/**/*.py", "fraud_platform/**/*.lua")
"""What travels of the checkout, as BENTOFILE says it to BentoML."""


def pack_champion(home: Path, into: Path) -> Path:
    """Copy the verified champion of a home into a Bento's code; returns its folder there.

    Raises NoReleaseError, BundleError.
    """
    champion = current_release(home)
    packed = into / PACKED / champion.name
    Bundle.load(champion).write(packed)
    return packed


def packed_release(code: Path) -> Path | None:
    """Folder of the release that a Bento's code carries; None in a checkout, which carries none. Raises BundleError."""
    found = [folder for folder in (code / PACKED).glob("*") if folder.is_dir()]
    if len(found) > 1:
        raise BundleError(f"{code / PACKED} holds more than one release: build the Bento again")
    return found[0] if found else None


def start_from(home: Path, packed: Path, *, decides: bool, now: datetime) -> str:
    """Install a packed release, and put it into force where the home has none or where it `decides`.

    Returns the name of the release in force. now: with a time zone, for the ledger. Raises BundleError.
    """
    with exclusive(releases(home) / ".promotion.lock"):
        try:
            standing = current_release(home).name
        except NoReleaseError:
            standing = None
        if standing == packed.name or (standing is not None and not decides):
            install(home, packed)
            return standing
        why = "a home without a release" if standing is None else "FRAUD_PACKED_RELEASE_DECIDES"
        released = publish(home, packed)
        append_change(home, Change(at=now, who="the package that started", why=why, to=released.name))
        return released.name


def content_version(root: Path, home: Path) -> str:
    """A Bento's version from what goes into it: `7-0123456789ab`, the champion's number and a digest of champion,
    code and packages. The same content has the same version anywhere. root: the checkout. Raises NoReleaseError.
    """
    champion = current_release(home)
    files = [path for pattern in (BENTOFILE, *CODE) for path in root.glob(pattern)]
    digest = digest_of([(str(path.relative_to(root)), path.read_bytes()) for path in files])
    model = digest_of([(name, (champion / name).read_bytes()) for name in DECIDING])
    whole = hashlib.sha256("\n".join((digest, model, serving_requirements(root))).encode()).hexdigest()
    return f"{champion.name.rpartition('-')[2]}-{whole[:12]}"


def digest_of(files: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256, hex, of names and contents, in the names' order."""
    lines = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
