"""MLflow's artifacts in a home that was moved, copied or restored elsewhere: they are looked for where they are now.

What belongs here: the addresses in MLflow's database. What does not: MLflow, which takes seconds to import, and takes
relative addresses only from the folder that a process happens to run in. The database is asked itself, at every start.
"""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from fraud_platform.model.bundle import MODEL_NAME

_ADDRESSES = {
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
}
"""Columns that say where files are."""
_BUSY_SECONDS = 30.0


def follow_home(home: Path) -> str | None:
    """Let every address that began with the artifacts' old folder begin with that of this home.

    Returns what was done, in a sentence; None where nothing has moved. All of it happens or nothing: it is one
    transaction. Raises sqlite3.OperationalError where another process holds the database for half a minute.
    """
    database, artifacts = home.absolute() / "mlflow" / "mlflow.db", home.absolute() / "mlflow" / "artifacts"
    if not database.exists():
        return None
    new = artifacts.as_uri()
    with closing(sqlite3.connect(database, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
        old = _location(connection)
        if old is None or old == new or not old.startswith("file:") or _is_same(old, artifacts):
            return None
        connection.execute("BEGIN IMMEDIATE")
        if _location(connection) == old:  # and no other process has done it meanwhile
            for table, columns in _ADDRESSES.items():
                for column in _present(connection, table, columns):
                    connection.execute(
                        f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR "
                        f"substr({column}, 1, ?) = ?",
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
        connection.execute("COMMIT")
    return f"The home has moved: MLflow finds its artifacts in {artifacts} now, and no longer under {old}."


def _present(connection: sqlite3.Connection, table: str, columns: Sequence[str]) -> list[str]:
    """Those that the database of an older MLflow has too, which it brings up to date once it opens it."""
    known = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
    return [column for column in columns if column in known]


def _location(connection: sqlite3.Connection) -> str | None:
    """Where the experiment's artifacts are; None before there is one."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return None
    found = connection.execute("SELECT artifact_location FROM experiments WHERE name = ?", (MODEL_NAME,)).fetchone()
    return None if found is None else str(found[0])


def _is_same(address: str, folder: Path) -> bool:
    """Whether an address is another name of the folder, as a link gives it."""
    try:
        return Path(unquote(urlsplit(address).path)).samefile(folder)
    except OSError:  # one of them is not there, or is not this user's to see
        return False
