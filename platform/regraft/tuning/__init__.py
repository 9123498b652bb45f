"""Search of a spec's space: trials, workers, the study that chooses them, and the page of a search."""
