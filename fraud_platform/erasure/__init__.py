"""Erasing one user: out of every store, and kept out.

What belongs here: `suppression` (who was erased, under which pseudonym), `mentions` (finding an identifier in rows),
`rows` (what becomes of rows), `files`, `redis_keys`, `postgres`, `policies` and `home` (the stores), `erase` (the order
of work).
"""
