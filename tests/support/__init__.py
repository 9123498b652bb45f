"""What several tests need: tiny bases and data, processes, a browser."""
