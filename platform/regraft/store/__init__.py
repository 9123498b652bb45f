"""The store of runs, checkpoints and models: a bucket or a folder, with keys that hold bytes."""
