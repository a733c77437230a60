"""Answers without files: a `Predictor` turns texts or rows into answers, in memory."""
