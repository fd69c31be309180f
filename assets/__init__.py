"""Dagster's view of the platform: names, order, partitions, checks and schedules of what the domain does."""
