"""The choice of a base before any training: scores of kept features, a verdict that calls ties, a data curve.

Scores, verdict, dull baselines and curve are arithmetic on features (rows, width) in float64; no model is loaded here.
"""
