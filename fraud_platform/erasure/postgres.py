"""One user in PostgreSQL: the rows of Feast's tables under the user's entity key; counted and deleted.

What belongs here: which rows are a user's. What does not: the tables' layout (`online.cold_writer`).
"""

import psycopg
from psycopg import sql

from fraud_platform.erasure.names import Names
from fraud_platform.online import layout
from fraud_platform.online.packed import USER_VECTOR


def _tables(connection: psycopg.Connection) -> list[sql.Identifier]:
    """Every table of the schema that is keyed by entity, a half-loaded one too."""
    found = connection.execute(
        "SELECT table_name FROM information_schema.columns "
        "WHERE column_name = 'entity_key' AND table_schema = current_schema() ORDER BY 1"
    )
    return [sql.Identifier(name) for (name,) in found.fetchall()]


def _keys(names: Names) -> list[bytes]:
    # the project is part of the table's name and not of the key
    return [layout.entity_key("", USER_VECTOR.join_key, user) for user in names.users]


def count_rows(connection: psycopg.Connection, names: Names) -> int:
    """Rows of the user in all tables."""
    count = 0
    for table in _tables(connection):
        query = sql.SQL("SELECT count(*) FROM {} WHERE entity_key = ANY(%s)").format(table)
        row = connection.execute(query, (_keys(names),)).fetchone()
        count += int(row[0]) if row else 0
    return count


def delete_rows(connection: psycopg.Connection, names: Names) -> None:
    """Delete the user's rows, make their space free, and let the planner's samples of the keys be drawn anew.

    The next load replaces the table. Needs autocommit.
    """
    for table in _tables(connection):
        query = sql.SQL("DELETE FROM {} WHERE entity_key = ANY(%s)").format(table)
        connection.execute(query, (_keys(names),))
        # also where nothing was deleted now: an erasure that was killed may have ended between the two
        connection.execute(sql.SQL("VACUUM (ANALYZE) {}").format(table))
