"""Which sets of features releases stand on, beside the platform's own.

What belongs here: asking the routing, the ledger and the bundles. What does not: loading the views of a set
(`online.other_views`).
"""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.model.bundle import Bundle, BundleError, NoReleaseError, release_folder
from fraud_platform.model.release import ReleaseError, champion_before, retired
from fraud_platform.model.routing import read_routing


def sets_in_force(home: Path, catalogue: Catalogue = CATALOGUE) -> list[Catalogue]:
    """The sets that are not the platform's own, each once: of the champion, of its challenger, and of the champion
    before, to which a roll-back returns until it is retired. A release that cannot be loaded has none: whoever serves
    it says so."""
    try:
        routing = read_routing(home)
    except (NoReleaseError, BundleError):
        return []
    names = [routing.release, *([routing.challenger] if routing.challenger else [])]
    with suppress(ReleaseError):  # there is no way back
        names.append(champion_before(home))
    return _sets(home, names, catalogue)


def retired_sets(home: Path, catalogue: Catalogue = CATALOGUE) -> list[Catalogue]:
    """The sets that are neither the platform's own nor in force, and that a retired release stood on."""
    kept = {one.hash for one in sets_in_force(home, catalogue)}
    return [one for one in _sets(home, sorted(retired(home)), catalogue) if one.hash not in kept]


def _sets(home: Path, names: Iterable[str], catalogue: Catalogue) -> list[Catalogue]:
    found: dict[str, Catalogue] = {}
    for name in names:
        try:
            own = Bundle.load(release_folder(home, name), catalogue).set_of(catalogue)
        except BundleError:
            continue
        found[own.hash] = own
    found.pop(catalogue.hash, None)
    return list(found.values())
