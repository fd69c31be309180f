"""Which sets of features the releases in force stand on, beside the platform's own.

What belongs here: asking the routing and the bundles. What does not: loading the views of a set (`online.other_views`).
"""

from pathlib import Path

from fraud_platform.features.catalogue import CATALOGUE, Catalogue
from fraud_platform.model.bundle import Bundle, BundleError, NoReleaseError, release_folder
from fraud_platform.model.routing import read_routing


def sets_in_force(home: Path, catalogue: Catalogue = CATALOGUE) -> list[Catalogue]:
    """The sets of the champion and of its challenger that are not the platform's own, each once.

    A release that cannot be loaded, or needs what is not computed here, has none: whoever serves it says so.
    """
    try:
        routing = read_routing(home)
    except (NoReleaseError, BundleError):
        return []
    found: dict[str, Catalogue] = {}
    for release in (routing.release, routing.challenger):
        try:
            bundle = None if release is None else Bundle.load(release_folder(home, release), catalogue)
        except BundleError:
            continue
        if bundle is not None and bundle.columns(catalogue) is not None:
            own = catalogue.only(bundle.features)
            found[own.hash] = own
    return list(found.values())
