"""The control store's tables, as Alembic makes them: `env` says how, `versions` what, one file a step."""
