"""P2.7: where the answer lies."""
