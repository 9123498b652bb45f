"""Helpers of the image medium: safe decoding, and augmentation of pixels."""
