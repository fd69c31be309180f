"""Feast's side of the feature store: definitions generated from the catalogue, registry and configuration."""
