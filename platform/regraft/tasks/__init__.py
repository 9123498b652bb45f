"""Tasks, which give the data their meaning: one file each."""
