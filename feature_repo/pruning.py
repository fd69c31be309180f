"""Which packed views Feast's registry may forget: those of sets that no served model and no store needs any more.

What belongs here: which. What does not: the registry itself (`store`), deleting rows (`fraud_platform.online`).
"""

from dataclasses import dataclass

from feature_repo.store import registered_views
from fraud_platform.model.served_sets import sets_in_force
from fraud_platform.online.cold_writer import encoded_records
from fraud_platform.online.embedded_postgres import ensure_postgres
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.other_views import loaded
from fraud_platform.online.packed import VIEWS, views_of
from fraud_platform.online.shards import connect_redis
from fraud_platform.settings import Settings


@dataclass(frozen=True)
class RegisteredView:
    """A packed view in Feast's registry."""

    name: str
    set_hash: str
    """Of the set for which it was registered last."""


def unneeded_views(settings: Settings) -> list[RegisteredView]:
    """Registered views that are not the platform's own, that no release in force stands on, and that neither Redis nor
    PostgreSQL has: a version of before that still decides loads its own, and has them there.

    Raises RedisUnavailableError, PostgresUnavailableError: what a store that cannot be asked has is not known.
    """
    import psycopg

    found = registered_views(settings)
    needed = {view.name for view in VIEWS}
    needed |= {view.name for one in sets_in_force(settings.home) for view in views_of(one)}
    if found.keys() <= needed:
        return []
    with connect_redis(ensure_redis(settings)) as redis_client:
        needed |= loaded(redis_client)
    with psycopg.connect(ensure_postgres(settings)) as connection:
        needed |= encoded_records(connection).keys()
    return [RegisteredView(name, found[name]) for name in sorted(found.keys() - needed)]
