"""The control store: what people have set, shared by every home that names one PostgreSQL with FRAUD_CONTROL_URL.

What belongs here: the store itself, its schema, listening to it. What does not: what a change means, which each kind
of control state knows by itself (`decision.policy_control`). The files of a home are its last-good copy: payments are
decided by them, and the store is asked for none.
"""
