"""The engine: many models on shared bases, answered together."""
