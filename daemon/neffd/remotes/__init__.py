"""Places where entries are shared; one module a kind, behind the interface in `base`."""
