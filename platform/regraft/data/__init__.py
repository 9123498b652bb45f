"""Data: sources that read files, the Arrow snapshot of checked rows, and the sampler that orders them."""
