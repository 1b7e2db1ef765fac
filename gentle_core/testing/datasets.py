"""Checks of datasets."""
