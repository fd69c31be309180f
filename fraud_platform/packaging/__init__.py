"""The decision service as it is shipped: what a Bento and an image hold, and how they start."""
