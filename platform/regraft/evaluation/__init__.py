"""Evaluation of a registered model on labelled rows, and the page that shows it; above `serving`, without Ray."""
