"""What follows from a row having numbers, whatever the row is: their scale, its loss, its metrics, its answer."""
