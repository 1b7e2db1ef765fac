"""Downstream evaluations on labelled chains."""
