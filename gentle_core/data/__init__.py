"""From datasets to batches: matched rows and unmatched pools, sampled deterministically from (seed, step)."""
