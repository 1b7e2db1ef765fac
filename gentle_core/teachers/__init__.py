"""Teachers: what says which items of two unmatched pools may be mates. Each is a component of its own."""
