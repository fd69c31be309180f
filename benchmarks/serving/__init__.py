"""The serving benchmark: this service beside the reference pattern, Feast's SDK and an empty endpoint, in one run."""
