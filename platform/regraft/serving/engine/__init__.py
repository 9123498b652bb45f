"""The engine: models of one base answer from one copy of it, and batches that mix them share its passes."""
