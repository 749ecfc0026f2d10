"""P3.1: paths between the MLPs of the lookup."""
