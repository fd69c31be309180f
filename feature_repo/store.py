"""Opens the Feast store from the settings, registers the definitions, and materializes one snapshot.

What belongs here: configuration, paths, the lock. What does not: definitions (`views`), bytes (`online.writer`). Feast
is imported inside the functions, since its import takes ten seconds and most calls of `apply` need none of it.
"""

import fcntl
import hashlib
import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, time
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from fraud_platform.features.catalogue import CATALOGUE
from fraud_platform.lake import Lake, open_lake
from fraud_platform.online.cold_writer import cold_table
from fraud_platform.online.embedded_postgres import ensure_postgres
from fraud_platform.online.embedded_redis import ensure_redis
from fraud_platform.online.packed import EVENT_TIMESTAMP, PROJECT, VIEWS, PackedView, is_packed
from fraud_platform.online.shards import is_cluster, seed_urls
from fraud_platform.online.snapshot_load import SNAPSHOT_TABLES
from fraud_platform.settings import Settings

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.views import Definitions

REPO = Path(__file__).parent
SOURCE = "_source"
"""Behind a view's name: its source's."""
DAY_SECONDS = 86_400


def environment(settings: Settings) -> dict[str, str]:
    """The variables of feature_store.yaml and of definitions.py. Starts the embedded Redis where none runs."""
    redis_url = ensure_redis(settings)
    return {
        "FRAUD_HOME": str(settings.home.absolute()),
        "FRAUD_LAKE_URL": settings.lake,
        "FRAUD_ONLINE_TTL_DAYS": str(settings.online_ttl_days),
        "FRAUD_FEAST_REDIS": connection_string(redis_url),
        "FRAUD_FEAST_REDIS_TYPE": "redis_cluster" if is_cluster(redis_url) else "redis",
        "FRAUD_FEAST_KEY_TTL_SECONDS": str(settings.online_ttl_days * DAY_SECONDS),
        "FRAUD_FEAST_ROWS_PER_SECOND": str(settings.online_load_rate),
        "FRAUD_FEAST_OFFLINE_STORE": _offline_store(settings),
    }


def cold_environment(settings: Settings) -> dict[str, str]:
    """The variables of cold_store.yaml. Starts the embedded PostgreSQL where none runs."""
    from psycopg.conninfo import conninfo_to_dict

    parts = conninfo_to_dict(ensure_postgres(settings))
    defaults = {"host": "localhost", "port": "5432", "dbname": "postgres", "user": "postgres", "password": "",
                "sslmode": "prefer"}  # fmt: skip
    values = defaults | {name: str(value) for name, value in parts.items() if name in defaults}
    # Feast takes YAML: a numeric password has to stay a text
    named = {("database" if name == "dbname" else name).upper(): json.dumps(value) for name, value in values.items()}
    return {
        "FRAUD_HOME": str(settings.home.absolute()),
        "FRAUD_FEAST_OFFLINE_STORE": _offline_store(settings),
        **{f"FRAUD_FEAST_POSTGRES_{name}": value for name, value in named.items()},
    }


def _offline_store(settings: Settings) -> str:
    """Feast's offline store of the settings' engine; JSON, which is YAML too."""
    if settings.engine == "duckdb":
        return json.dumps({"type": "duckdb"})
    options = {"spark.master": settings.spark_master, "spark.sql.session.timeZone": "UTC"} | settings.spark_options
    return json.dumps({"type": "spark", "spark_conf": options})


def connection_string(url: str) -> str:
    """A Redis URL as Feast writes it: host:port,db=0,…. Raises ValueError for what Feast cannot express.

    A Unix socket is one of the options, which Feast hands to redis-py as they are; the host before them is not asked.
    """
    hosts = [urlsplit(seed).netloc.rpartition("@")[2] for seed in seed_urls(url)] if is_cluster(url) else []
    parts = urlsplit(seed_urls(url)[0] if hosts else url)
    if parts.scheme == "unix" and parts.path:
        place = {"unix_socket_path": json.dumps(unquote(parts.path))}
        return _joined(["localhost:0"], dict(parse_qsl(parts.query)) | place)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("Feast reaches Redis by redis://, rediss:// or unix:// addresses only")
    options: dict[str, str] = {} if hosts else {"db": parts.path.strip("/") or "0"}
    if parts.scheme == "rediss":
        options["ssl"] = "true"
    for name, value in (("username", parts.username), ("password", parts.password)):
        if value:
            options[name] = json.dumps(unquote(value))  # Feast parses values as JSON: a numeric password stays a text
    options |= dict(parse_qsl(parts.query))
    return _joined(hosts or [f"{parts.hostname}:{parts.port or 6379}"], options)


def _joined(hosts: Sequence[str], options: Mapping[str, str]) -> str:
    if any("," in value for value in options.values()):
        raise ValueError("Feast separates the parts of a Redis address by commas, so no part may hold one")
    return ",".join([*hosts, *(f"{name}={value}" for name, value in options.items())])


def open_store(settings: Settings, *, cold: bool = False) -> "FeatureStore":
    """The Feast store of these settings: Redis as feature_store.yaml describes it, PostgreSQL by cold_store.yaml."""
    from feast import FeatureStore, RepoConfig

    # two advisories at each start about serving from this registry while it is written, which is what we want
    logging.getLogger("feast.repo_config").setLevel(logging.ERROR)
    name, variables = (
        ("cold_store.yaml", cold_environment(settings)) if cold else ("feature_store.yaml", environment(settings))
    )
    text = Template((REPO / name).read_text()).substitute(variables)
    config = RepoConfig(**yaml.safe_load(text))
    config.repo_path = REPO
    return FeatureStore(config=config)


def definitions(settings: Settings) -> "Definitions":
    """The generated definitions with these settings' paths and ttl."""
    from feast.data_source import DataSource

    from feature_repo.views import Sources, build

    lake = open_lake(settings)

    def source(name: str, path: str) -> DataSource:
        if settings.engine == "spark":
            from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

            return SparkSource(name=name, path=path, file_format="parquet", timestamp_field=EVENT_TIMESTAMP)
        from feast import FileSource

        return FileSource(name=name, path=path, timestamp_field=EVENT_TIMESTAMP)

    def sources(view: PackedView) -> Sources:
        snapshots = f"{lake.uri(SNAPSHOT_TABLES[view.entity])}/date=*/data.parquet"
        packed = source(f"{view.name}{SOURCE}", _source(settings, view.name))
        return Sources(packed, source(f"{view.entity}_snapshot{SOURCE}", snapshots))

    return build(sources, settings.online_ttl_days)


def apply(settings: Settings, *, cold: bool = False) -> bool:
    """Register the definitions; False, without importing Feast, when they are registered as they are.

    cold: and create their tables in PostgreSQL, where a server that was lost has them no more.
    """
    folder = _folder(settings)
    registry, marker = _registry(settings), folder / ("applied_cold" if cold else "applied")
    wanted = _fingerprint(settings)
    if cold:
        wanted += f" {ensure_postgres(settings).rpartition('@')[2]}"
    with _lock(settings):
        applied = registry.exists() and marker.exists() and marker.read_text() == wanted
        if applied and (not cold or _has_tables(ensure_postgres(settings))):
            return False
        marker.unlink(missing_ok=True)
        open_store(settings, cold=cold).apply(definitions(settings).objects)
        marker.write_text(wanted)
    return True


def write_source(settings: Settings, view: PackedView, rows: pa.Table) -> None:
    """Replace Feast's source file of a packed view by the packed rows of one snapshot."""
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    Lake(str(_folder(settings))).write_bytes(_source(settings, view.name), sink.getvalue().to_pybytes())


def materialize(settings: Settings, view: PackedView, day: date, *, cold: bool = False) -> None:
    """Run Feast's materialization of a packed view over `day`; its source file must hold that day's snapshot."""
    apply(settings, cold=cold)
    start, end = (datetime.combine(day, at, UTC) for at in (time.min, time.max))
    with _lock(settings):
        open_store(settings, cold=cold).materialize(start, end, feature_views=[view.name])


def registered_views(settings: Settings) -> dict[str, str]:
    """The packed views that Feast's registry has and that no view by name reads, and the hash of the set for which each
    was registered last. Empty, without importing Feast, where there is no registry."""
    if not _registry(settings).exists():
        return {}
    from feature_repo.views import SET_TAG

    store = open_store(settings)
    read = {name for view in store.list_on_demand_feature_views() for name in view.source_feature_view_projections}
    return {
        view.name: view.tags.get(SET_TAG, "")
        for view in store.list_feature_views()
        if is_packed(view.name) and view.name not in read
    }


def unregister(settings: Settings, names: Sequence[str]) -> None:
    """Take packed views out of Feast's registry, with their sources. Killed and repeated, it ends in the same state."""
    from feast.errors import DataSourceNotFoundException

    with _lock(settings):
        store = open_store(settings)
        for name in names:
            # the view last: once the registry has forgotten it, nobody finds the others
            Path(_source(settings, name)).unlink(missing_ok=True)
            with suppress(DataSourceNotFoundException):
                store.registry.delete_data_source(f"{name}{SOURCE}", store.project)
            store.delete_feature_view(name)


def _has_tables(url: str) -> bool:
    """Whether PostgreSQL has the table of every packed view."""
    import psycopg

    with psycopg.connect(url) as connection:
        asked = [connection.execute("SELECT to_regclass(%s)", (cold_table(PROJECT, view),)) for view in VIEWS]
        return all(row is not None and row[0] is not None for row in (cursor.fetchone() for cursor in asked))


def _folder(settings: Settings) -> Path:
    return settings.home.absolute() / "feast"


def _registry(settings: Settings) -> Path:
    return _folder(settings) / "registry.db"


def _source(settings: Settings, name: str) -> str:
    """A packed view's rows, on this machine whatever the lake is: Feast reads them by DuckDB's own clients, and no
    other home replaces them."""
    return str(_folder(settings) / "online_source" / f"{name}.parquet")


def _fingerprint(settings: Settings) -> str:
    """Changes with anything that `apply` registers."""
    names = ("entities.py", "views.py", "store.py", "feature_store.yaml", "cold_store.yaml")
    code = [(REPO / name).read_text() for name in names]
    parts = (CATALOGUE.features, settings.lake, settings.engine, settings.online_ttl_days, code)
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@contextmanager
def _lock(settings: Settings) -> Iterator[None]:
    """One writer of the registry at a time: Feast reads, changes and writes the whole file."""
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """Print the shell commands that let the plain feast command work: eval "$(python -m feature_repo.store)"."""
    settings = Settings()
    _folder(settings).mkdir(parents=True, exist_ok=True)
    for name, value in environment(settings).items():
        print(f"export {name}={shlex.quote(value)}")
    print(f'export PYTHONPATH={shlex.quote(str(REPO.parent))}"${{PYTHONPATH:+:$PYTHONPATH}}"')


if __name__ == "__main__":
    main()
