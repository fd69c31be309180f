"""Running the platform on one machine: its processes, their readiness, their end, and the first payments it decides.

What belongs here: `fraud-platform up`, `down` and `status`. What does not: anything that a bank runs elsewhere; there
the same servers are started by Kubernetes, with the same settings.
"""
