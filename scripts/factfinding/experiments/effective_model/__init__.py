"""P2.9: the lookup as tables, a few MLPs and a probe."""
