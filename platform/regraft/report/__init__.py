"""HTML pages, numbers and charts, shared by evaluation and tuning."""
