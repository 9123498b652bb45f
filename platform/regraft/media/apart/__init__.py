"""Decoding in processes of its own, which are ended and replaced when one takes too much."""
