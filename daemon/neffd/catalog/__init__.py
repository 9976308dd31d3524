"""What remotes hold, as far as we know."""
