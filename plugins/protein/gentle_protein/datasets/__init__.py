"""Where chains come from. Nothing here needs torch."""
