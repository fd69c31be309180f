"""A day of a large bank through the offline pipeline: what it costs, how that grows, and beside whom."""
