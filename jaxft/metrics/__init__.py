"""Metrics, on numpy arrays: one file a kind of answer."""
