"""Errors that a person reads: what happened, where, and what to do about it.

NeffdError            reference id, message, hint; exit code 1
└── ConfigError       bad configuration; exit code 2
"""

from __future__ import annotations


class NeffdError(Exception):
    """Something an operator has to know or mend.

    Args:
        reference: stable kebab-case id, also used in logs and metrics.
        message: what happened, and where.
        hint: what to do; may be empty.
    """

    exit_code = 1

    def __init__(self, reference: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.reference = reference
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        hint = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{self.message} [{self.reference}]{hint}"


class ConfigError(NeffdError):
    """The configuration cannot be used; one error names every problem found."""

    exit_code = 2
