"""Checks of augmentations."""
