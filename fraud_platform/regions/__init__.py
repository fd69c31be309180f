"""More regions: homes with a Redis, a service and a log of their own, on the lake of the first.

What belongs here: what the first region says in the lake of who decides, and how the others follow. What does not: the
changes themselves (`model.release`, `decision.policy_change`), whose windows count what (`features.sequence`).
"""
