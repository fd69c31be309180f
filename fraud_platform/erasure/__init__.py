"""Erasing one user: out of every store, and kept out.

What belongs here: `person` (whom an erasure takes out), `names` (how they are written), `suppression` (who was erased,
under which pseudonym), `mentions` (finding a person in rows), `rows` (what becomes of rows), `files`, `redis_keys`,
`postgres`, `policies`, `home` and `backups` (the stores), `witness` (a plain look at everything, which shares nothing
with the rest), `erase` (the order of work).
"""
