"""P2.8: where the circuit's borders lie."""
