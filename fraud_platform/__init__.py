"""The domain of the fraud-decision platform. Imports neither Dagster nor BentoML; `assets/` and `bento/` expose it."""

VERSION = "0.1.0"
"""Of the platform, as pyproject.toml has it; a Bento carries the code and not the distribution, which would say so."""
