"""Entries on this host: the cache directories, the index of what is known, placing what was fetched."""
