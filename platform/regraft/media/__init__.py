"""Media: how files of images and other media are read and checked."""
