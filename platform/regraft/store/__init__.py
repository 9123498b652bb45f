"""Where runs, checkpoints and models are kept: a bucket or a folder, seen as keys that hold bytes."""
