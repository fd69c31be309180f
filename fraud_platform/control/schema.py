"""Bringing the control store's schema up to date, by Alembic.

What belongs here: running the migrations, and who may do what afterwards. What does not: the migrations themselves
(`migrations`). Imports Alembic, which the decision service has not: whoever prepares a store does.
"""

from pathlib import Path

import psycopg
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from psycopg import sql
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from fraud_platform.control.store import ControlError, ControlStore, errors_told

_MIGRATIONS = Path(__file__).parent / "migrations"
_GRANTS = (
    "GRANT USAGE ON SCHEMA fraud_control TO {role}",
    # neither UPDATE nor DELETE of a change is anybody's but the owner's, and the trigger refuses those too
    "GRANT SELECT ON fraud_control.store, fraud_control.alembic_version TO {role}",
    "GRANT SELECT, INSERT ON fraud_control.change, fraud_control.words TO {role}",
    "GRANT SELECT, INSERT, UPDATE, DELETE ON fraud_control.worker TO {role}",
)


def prepare(url: str, roles: tuple[str, ...] = ()) -> bool:
    """Make the store's tables or bring them up to date, which their owner may; whether there was anything to do.

    roles: of PostgreSQL, that exist: each may then read, change and follow, and do nothing else. Raises ControlError.
    """
    with errors_told():
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS))
        # whoever owns no tables may find that there is nothing to do
        new = _revision(url) != ScriptDirectory.from_config(config).get_current_head()
        if new:
            engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=NullPool)
            try:
                with engine.begin() as connection:
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
            except DBAPIError as error:
                raise ControlError(
                    f"the control store's tables cannot be made: {error.orig}; its owner can, by `control join`"
                ) from error
        with ControlStore.opened(url) as store, store.connection.transaction():
            for role in roles:
                for grant in _GRANTS:
                    store.connection.execute(sql.SQL(grant).format(role=sql.Identifier(role)))
        return new


def _revision(url: str) -> str | None:
    with psycopg.connect(url) as connection:
        there = connection.execute("SELECT to_regclass('fraud_control.alembic_version')").fetchone()
        if there is None or there[0] is None:
            return None
        row = connection.execute("SELECT version_num FROM fraud_control.alembic_version").fetchone()
        return None if row is None else str(row[0])
