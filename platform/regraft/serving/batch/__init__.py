"""Batch prediction: every row of an input answered, into one output file."""
