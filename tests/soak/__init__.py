"""`make soak`: an hour of mixed work against a faulty Hub (SOAK_S shortens it), ended by a line of figures."""
