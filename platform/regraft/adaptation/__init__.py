"""Adapting a linear head to rows without labels: the shift, corrections, validators, the choice and its check.

Everything here is arithmetic on features and logits in float64; no model, store or file is read.
"""
