"""Changes that nobody alters, the words in them that may name people, and the workers that follow.

What belongs here: the first step of the schema.
"""

from alembic import op

revision = "0001"
down_revision = None

_STEPS = (
    # by it a home knows that the store is the one it followed before
    """CREATE TABLE fraud_control.store (
           single boolean PRIMARY KEY DEFAULT true CHECK (single), id uuid NOT NULL DEFAULT gen_random_uuid()
       )""",
    "INSERT INTO fraud_control.store DEFAULT VALUES",
    """CREATE TABLE fraud_control.change (
           seq bigint PRIMARY KEY CHECK (seq > 0),
           kind text NOT NULL,
           at timestamptz NOT NULL,
           document jsonb NOT NULL,
           line jsonb NOT NULL,
           stored_at timestamptz NOT NULL DEFAULT now(),
           stored_by text NOT NULL DEFAULT session_user
       )""",
    "CREATE INDEX change_of_kind ON fraud_control.change (kind, seq)",
    """CREATE FUNCTION fraud_control.refuse() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN RAISE EXCEPTION 'what was changed stays in the control store: % is refused', TG_OP; END $$""",
    """CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON fraud_control.change
           FOR EACH STATEMENT EXECUTE FUNCTION fraud_control.refuse()""",
    """CREATE TABLE fraud_control.words (
           id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, place text NOT NULL, text text NOT NULL
       )""",
    "CREATE INDEX words_by_text ON fraud_control.words USING hash (text)",
    # a crash of the store may lose it: each worker writes its own again within a second
    """CREATE UNLOGGED TABLE fraud_control.worker (
           name text PRIMARY KEY, note jsonb NOT NULL, seen_at timestamptz NOT NULL
       )""",
)


def upgrade() -> None:
    """Make the tables."""
    for step in _STEPS:
        op.execute(step)
