"""Studies: methods × numbers of pairs × seeds, compared pair by pair. What `gentle study` runs."""
