"""HTML pages, numbers and charts that evaluation and tuning share."""
