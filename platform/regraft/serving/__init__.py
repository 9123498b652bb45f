"""Answers from adapted models; no Ray, no HTTP."""
