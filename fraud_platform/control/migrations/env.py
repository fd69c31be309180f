"""How Alembic runs the steps: on the connection that `control.schema` hands over, in one transaction, with its own
table in the store's schema.

What belongs here: nothing else. Alembic loads this file by its path.
"""

from alembic import context
from sqlalchemy import text

_connection = context.config.attributes["connection"]
# two that prepare at once: the second waits, and finds nothing to do
_connection.execute(text("SELECT pg_advisory_xact_lock(4051727312)"))
_connection.execute(text("CREATE SCHEMA IF NOT EXISTS fraud_control"))
context.configure(connection=_connection, version_table_schema="fraud_control")
with context.begin_transaction():
    context.run_migrations()
