"""P2.8: the model simplified step by step."""
