"""From a question to an entry in the cache directory: one download however many ask."""
