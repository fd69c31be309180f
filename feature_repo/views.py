"""Feast's views and its feature service, generated from the catalogue: no feature is named here.

What belongs here: what Feast is told. What does not: arithmetic (`fraud_platform.features`), paths and connections
(`store`). Per entity there are three views: the packed one that Redis holds, a view that names its parts when people
read it online, and a scalar one over the lake's snapshots for historical retrieval.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView
from feast.data_source import DataSource
from feast.transformation.python_transformation import PythonTransformation
from feast.types import Array, FeastType, Float32, Float64, Int64, String

from feature_repo.entities import ENTITIES
from fraud_platform.features.catalogue import CATALOGUE, Feature
from fraud_platform.online.packed import VECTOR, VIEWS, Kind, PackedView

SERVICE = "fraud_detector"

_TYPES: dict[Kind, FeastType] = {
    "floats": Array(Float32),
    "int64": Int64,
    "strings": Array(String),
    "int64s": Array(Int64),
}
_MEANINGS = {
    "last_seen_us": "Effective time of the user's last transaction, UTC microseconds since 1970.",
    "known_countries": "Countries that the user paid in, in 90 days.",
    "known_devices": "Fingerprints of the devices that the user paid from in 90 days.",
}
SET_TAG = "catalogue_hash"
"""Of what is registered: the hash of the set of features for which it was."""
_TAGS = {SET_TAG: CATALOGUE.hash}

_NAMING = '''\
def {name}(inputs):
    """The parts of {view}'s array by name, bare and with this view's name before it; missing values are null."""
    names = {names!r}
    if "{view}__{vector}" not in inputs:
        raise ValueError("users and merchants read in one call need full_feature_names=True")
    rows = []
    for row in inputs["{view}__{vector}"]:
        if row is None:
            row = [None] * len(names)
        if len(row) != len(names):
            raise ValueError(f"{view} holds {{len(row)}} values, the catalogue names {{len(names)}}: load it again")
        rows.append([None if value != value else value for value in row])
    columns = {{name: [row[index] for row in rows] for index, name in enumerate(names)}}
    return columns | {{"{name}__" + name: values for name, values in columns.items()}}
'''


class _Naming(PythonTransformation):
    """A transformation that states its outputs. Feast would infer them from a sample array of one element, which the
    function rightly refuses."""

    fields: list[Field]

    def infer_features(self, random_input: dict[str, Any], singleton: bool | None = False) -> list[Field]:
        return self.fields


@dataclass(frozen=True)
class Sources:
    """One entity's rows as Feast finds them: the packed rows of the last load, and every snapshot of the lake."""

    packed: DataSource
    snapshots: DataSource


@dataclass(frozen=True)
class EntityViews:
    """The three views of one entity and their sources."""

    packed: FeatureView
    named: OnDemandFeatureView
    snapshot: FeatureView


@dataclass(frozen=True)
class Definitions:
    """Everything that `feast apply` registers."""

    entities: tuple[Entity, ...]
    views: tuple[EntityViews, ...]
    service: FeatureService

    @property
    def objects(self) -> list[Any]:
        """All objects, sources first, as `FeatureStore.apply` takes them."""
        plain = [view for views in self.views for view in (views.packed, views.snapshot)]
        named = [views.named for views in self.views]
        return [*(view.batch_source for view in plain), *self.entities, *plain, *named, self.service]


def build(sources: Callable[[PackedView], Sources], ttl_days: int) -> Definitions:
    """The definitions for one set of settings; `sources` says where a view's rows lie."""
    views = tuple(_entity_views(view, sources(view), timedelta(days=ttl_days)) for view in VIEWS)
    service = FeatureService(
        name=SERVICE,
        features=[view.named for view in views],
        description=f"The batch features of the fraud detector, catalogue {CATALOGUE.hash}.",
        tags=_TAGS,
    )
    return Definitions(tuple(ENTITIES.values()), views, service)


def _entity_views(view: PackedView, sources: Sources, ttl: timedelta) -> EntityViews:
    packed = _packed_view(view, sources.packed, ttl)
    return EntityViews(packed, _named_view(view, packed), _snapshot_view(view, sources.snapshots, ttl))


def _packed_view(view: PackedView, source: DataSource, ttl: timedelta) -> FeatureView:
    described = {**_MEANINGS, VECTOR: f"The {view.entity}'s batch features in this order: {', '.join(view.names)}."}
    return FeatureView(
        name=view.name,
        entities=[ENTITIES[view.entity]],
        ttl=ttl,
        schema=[
            Field(name=view.join_key, dtype=String),
            *(Field(name=name, dtype=_TYPES[kind], description=described[name]) for name, kind in view.features),
        ],
        online=True,
        source=source,
        description=f"The {view.entity}'s batch features of the snapshot in force, packed into one array.",
        tags=_TAGS,
    )


def _named_view(view: PackedView, packed: FeatureView) -> OnDemandFeatureView:
    name = f"{view.entity}_features"
    source = _NAMING.format(name=name, view=view.name, vector=VECTOR, names=list(view.names))
    scope: dict[str, Any] = {}
    exec(compile(source, f"<{name}>", "exec"), scope)  # Feast's registry keeps the source and does the same
    naming = _Naming(udf=scope[name], udf_string=source)
    # bare fields: the registry drops an on-demand field's description and tags, and Feast then refuses a feature
    # service that names the field with them; the snapshot view describes each feature
    naming.fields = [Field(name=name, dtype=Float64) for name in view.names]
    return OnDemandFeatureView(
        name=name,
        sources=[packed[[VECTOR]]],
        schema=naming.fields,
        mode="python",
        feature_transformation=naming,
        description=f"The {view.entity}'s batch features by name, read online from {view.name}; "
        f"{view.entity}_snapshot describes each.",
        tags=_TAGS,
    )


def _snapshot_view(view: PackedView, source: DataSource, ttl: timedelta) -> FeatureView:
    return FeatureView(
        name=f"{view.entity}_snapshot",
        entities=[ENTITIES[view.entity]],
        ttl=ttl,
        schema=[Field(name=view.join_key, dtype=String), *(_described(feature) for feature in view.vector)],
        online=False,
        source=source,
        description=f"The {view.entity}'s batch features at the end of each UTC day, for historical retrieval.",
        tags=_TAGS,
    )


def _described(feature: Feature) -> Field:
    tags = {"unit": feature.unit, "window": feature.window, "cold_start": feature.cold_start}
    return Field(name=feature.name, dtype=Float32, description=feature.meaning, tags=tags)
