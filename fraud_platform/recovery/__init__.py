"""What is kept for the day on which something is lost, and the proof that it comes back.

What belongs here: `backup` (keeping and putting back), `drill` (losing things on a copy). What does not: rebuilding
from the lake, which the jobs of every day do (`online`, `assets`).
"""
