"""Shared by several tests: tiny bases and data, processes, a browser."""
