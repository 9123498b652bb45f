"""Sources: readers of files and folders, one module for each format."""
