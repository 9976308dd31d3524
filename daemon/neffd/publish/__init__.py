"""From a ready entry in the cache directory to a confirmed one on the remotes."""
