"""Overhead scenes and captions for Gentle. `gentle_remote_sensing.plugin` says what is in here."""
