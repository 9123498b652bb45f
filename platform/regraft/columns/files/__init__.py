"""Columns whose values are files: kept by reference, fetched when a row is used."""
