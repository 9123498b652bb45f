"""What follows from a row having any number of labels, whatever the row is: its loss, its metrics, its answer."""
