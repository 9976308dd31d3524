"""Present, with a version beside it: this is what turns optimum-neuron's cache code on."""


class DataParallel:
    """Imported by name; only models would use it."""
