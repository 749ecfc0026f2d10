"""Toy models of memorisation (post 4): small networks that learn a table of pairs by heart, or the rule behind it."""
