"""The only package of regraft that imports Ray."""
