"""P2.11: whether the probed directions are used."""
