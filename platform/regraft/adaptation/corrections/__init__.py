"""Corrections of a linear head for target rows, which give a linear head again: one file each."""
