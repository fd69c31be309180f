"""The feature store at serving speed: byte layout, bulk writer, snapshots in force."""
