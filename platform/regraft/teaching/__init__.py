"""Another class for a registered model from a few examples, without training."""
