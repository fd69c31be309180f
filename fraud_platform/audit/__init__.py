"""Decisions of the past, made again from their records."""
