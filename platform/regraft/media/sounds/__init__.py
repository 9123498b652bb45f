"""Sounds: files of them, their cost, windows of long ones, and pictures of them for reports."""
