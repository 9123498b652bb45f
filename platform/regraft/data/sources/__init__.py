"""How files become rows: one file a source."""
