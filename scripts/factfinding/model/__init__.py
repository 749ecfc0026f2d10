"""Loading a model and knowing its parts."""
