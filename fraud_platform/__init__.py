"""The domain of the fraud-decision platform. Imports neither Dagster nor BentoML; `assets/` and `bento/` expose it."""
