"""A rule, a threshold or a model over past traffic: what it would have stopped, and what that would have been worth."""
