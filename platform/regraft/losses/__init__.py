"""What else pulls on the weights: one file a loss."""
