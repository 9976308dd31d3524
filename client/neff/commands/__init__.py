"""The sub-commands of `neff`: one module each, with `add_arguments(parser)` and `run(args) -> exit code`."""
