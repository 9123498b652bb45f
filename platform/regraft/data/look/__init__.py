"""A look at data before anything is written about them: source, columns, task, groups and what stands out."""
