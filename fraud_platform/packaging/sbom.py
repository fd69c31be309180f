"""What an image holds, for those who must know: a CycloneDX bill of materials, and a list of licences.

What belongs here: reading installed packages and listing them. What does not: installing (`image`), the format, which
is cyclonedx-python-lib's. The base image has a bill of its own, this one names it.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from importlib.metadata import distributions
from pathlib import Path
from typing import cast

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model import component as bom
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL

_CLASSIFIER = "License :: "
_UNKNOWN = "not declared"
_LONGEST = 80
"""Some packages put a licence's whole text into the field of its name."""


@dataclass(frozen=True, order=True)
class Component:
    """An installed package."""

    name: str
    version: str
    licence: str
    """An SPDX expression, or the name that the package gives; `not declared` where it gives none."""


def installed(folder: Path) -> list[Component]:
    """The packages of a folder of packages, sorted."""
    found = []
    for distribution in distributions(path=[str(folder)]):
        metadata = cast(Message, distribution.metadata)
        found.append(Component(str(metadata["Name"]), distribution.version, _licence(metadata)))
    return sorted(found)


def bill_of_materials(
    components: Sequence[Component],
    *,
    name: str,
    version: str,
    at: datetime,
    images: Sequence[str],
    model: tuple[str, str] | None,
) -> str:
    """A CycloneDX 1.5 document, the same for the same content.

    at: when the content was made, with a time zone. images: those that it is made of. model: name and SHA-256 of the
    model that is inside, if one is.
    """
    whole = bom.Component(type=ComponentType.CONTAINER, name=name, version=version, bom_ref=f"{name}@{version}")
    parts = [_library(one) for one in components]
    parts += [bom.Component(type=ComponentType.CONTAINER, name=image, bom_ref=image) for image in images]
    if model is not None:
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=model[1])]
        kind = ComponentType.MACHINE_LEARNING_MODEL
        parts.append(bom.Component(type=kind, name=model[0], hashes=hashes, bom_ref=model[0]))
    document = Bom(
        components=parts, metadata=BomMetaData(component=whole, timestamp=at), serial_number=uuid.UUID(int=0)
    )
    document.register_dependency(whole, parts)
    # a serial number of the content: the same content is the same document
    document.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, _json(document))
    return _json(document) + "\n"


def licence_list(components: Sequence[Component]) -> str:
    """One line a package: name, version, licence."""
    return "".join(f"{one.name} {one.version}: {one.licence}\n" for one in components)


def _library(one: Component) -> bom.Component:
    purl = PackageURL("pypi", name=one.name, version=one.version)
    licences = [] if one.licence == _UNKNOWN else [LicenseFactory().make_from_string(one.licence)]
    return bom.Component(name=one.name, version=one.version, purl=purl, licenses=licences, bom_ref=purl.to_string())


def _json(document: Bom) -> str:
    return make_outputter(document, OutputFormat.JSON, SchemaVersion.V1_5).output_as_string(indent=2)


def _licence(metadata: Message) -> str:
    # by `get`: with importlib_metadata installed, what is absent is a KeyError
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classified = [str(line).rpartition(" :: ")[2] for line in metadata.get_all("Classifier", ()) if _CLASSIFIER in line]
    named = str(metadata.get("License") or "").strip()
    if classified:
        return " AND ".join(sorted(set(classified)))
    return named.splitlines()[0][:_LONGEST] if named else _UNKNOWN
