"""Scenes, and the captions that describe them."""
