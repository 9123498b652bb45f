"""Batch prediction: a whole input answered into one file."""
