"""How good a registered model is on labelled rows, and the page that shows it; above `serving`, without Ray."""
