"""`regraft auto`: from data to a registered model, its page and the spec that repeats it, within a budget."""
