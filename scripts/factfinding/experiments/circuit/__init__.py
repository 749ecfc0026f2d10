"""P2.8: the circuit, proposed or fixed."""
