"""A simulated bank: users, merchants, devices, fraud patterns and late labels, deterministic per seed and day.

What belongs here: the world that the platform observes. What does not: anything the platform computes from it.
"""
