"""Encoders of images and of text."""
