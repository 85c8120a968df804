"""What happens when things go wrong, at length. Each module is a command."""
