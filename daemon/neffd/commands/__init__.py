"""The commands of `neff` that need the daemon's packages: one module each.

A module has `EXAMPLE`, `JSON` (the fields of `--json`, and what they mean), `add_arguments(parser)` and
`run(args) -> exit code`. It imports at its top what costs nothing; what it needs beyond comes when it runs.
"""
