"""The 50 features: one catalogue, and the code that computes their values offline and at request time."""
