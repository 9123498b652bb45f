"""Bases: found, checked, loaded, taken apart; and what an adapted model is beside its base."""
