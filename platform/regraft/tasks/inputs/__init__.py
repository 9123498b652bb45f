"""Inputs of tasks: how a row is encoded."""
