"""Callers by name: the one that is nobody in particular.

What belongs here: a name that rooms share which may not import each other. What does not: who may ask for what
(`decision.access`). It imports nothing, for the process of the rules starts with it.
"""

DEFAULT_CALLER = "default"
"""Whoever asks where no keys are in use, and whose an imported history is."""
