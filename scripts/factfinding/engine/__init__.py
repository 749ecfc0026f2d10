"""Recording and editing activations, exactly and fast."""
