"""The server: HTTP in front of engine workers. No torch: models live in the workers' processes."""
