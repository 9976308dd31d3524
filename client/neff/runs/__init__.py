"""Runs: what determines a job's graphs, its key, and telling the daemon of it. Standard library only."""
