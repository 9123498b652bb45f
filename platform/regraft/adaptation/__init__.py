"""Adaptation to another domain without its labels: the shift, candidates, validators, the choice and its check.

`session` reads, trains and registers. Sides, corrections, validators, shift, guard, choice and check are arithmetic on
features and logits in float64.
"""
