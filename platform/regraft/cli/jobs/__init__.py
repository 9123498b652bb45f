"""Commands that run as a job of a cluster."""
