"""Plans before anything starts: what a spec moves, needs, writes and takes."""
