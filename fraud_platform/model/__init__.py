"""The model room: labels and vectors become a measured, registered and released model."""
