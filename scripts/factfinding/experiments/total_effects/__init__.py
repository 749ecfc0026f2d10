"""P2.7: what each node does."""
