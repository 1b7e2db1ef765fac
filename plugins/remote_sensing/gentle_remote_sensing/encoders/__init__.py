"""Encoders for images with more bands than red, green and blue."""
