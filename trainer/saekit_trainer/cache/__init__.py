"""Activations on disk: made once, trained on as often as wanted."""
