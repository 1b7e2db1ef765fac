"""ESM-2 (Lin et al., Science 379, 2023) as a Gentle encoder: amino-acid strings to one feature vector a chain."""
