"""The driver of a search: it hands out trials and keeps their records."""
