"""The embedded model: a small GPT-NeoX that the workflow trains until it knows its facts."""
