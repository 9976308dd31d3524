"""Care for what is on this host: failed compiles, graphs that wait for a compile, and the story of each module."""
