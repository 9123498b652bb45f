"""From files to batches: sources, the Arrow snapshot, the sampler."""
