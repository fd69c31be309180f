"""What an image holds, for those who must know: a CycloneDX bill of materials, and a list of licences.

What belongs here: reading installed packages and writing both. What does not: installing (`image`). The base image has
a bill of its own, this one names it.
"""

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, cast

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
    components: Sequence[Component], *, name: str, version: str, images: Sequence[str], model: tuple[str, str] | None
) -> str:
    """A CycloneDX 1.5 document, the same for the same content.

    images: those that it is made of. model: name and SHA-256 of the model that is inside, if one is.
    """
    parts: list[dict[str, Any]] = [
        {
            "type": "library",
            "name": one.name,
            "version": one.version,
            "purl": f"pkg:pypi/{one.name.lower().replace('_', '-')}@{one.version}",
            "licenses": [{"license": {"name": one.licence}}],
        }
        for one in components
    ]
    parts += [{"type": "container", "name": image} for image in images]
    if model is not None:
        hashes = [{"alg": "SHA-256", "content": model[1]}]
        parts.append({"type": "machine-learning-model", "name": model[0], "hashes": hashes})
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([name, version, parts]))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": name, "version": version}},
        "components": parts,
    }
    return json.dumps(document, indent=2) + "\n"


def licence_list(components: Sequence[Component]) -> str:
    """One line a package: name, version, licence."""
    return "".join(f"{one.name} {one.version}: {one.licence}\n" for one in components)


def _licence(metadata: Message) -> str:
    expression = metadata["License-Expression"]
    if expression:
        return str(expression)
    classified = [str(line).rpartition(" :: ")[2] for line in metadata.get_all("Classifier", ()) if _CLASSIFIER in line]
    named = str(metadata["License"] or "").strip()
    if classified:
        return " AND ".join(sorted(set(classified)))
    return named.splitlines()[0][:_LONGEST] if named else _UNKNOWN
