"""Watching what was decided: drift, performance, skew and freshness, and what follows from them."""
