"""Texts with a few words changed so that a model answers otherwise: how much of its accuracy that costs."""
