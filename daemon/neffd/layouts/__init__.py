"""How frameworks store compiled entries on disk."""
