"""Protein sequences and structures for Gentle. `gentle_protein.plugin` says what is in here."""
