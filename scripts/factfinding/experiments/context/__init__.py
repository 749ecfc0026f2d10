"""P2.10: what comes before the name."""
