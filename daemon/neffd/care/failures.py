"""Why a compile failed, read from its log: would another try help? Pure functions.

Stock keeps the log of a failed compile and repeats the failure from it for ever. A failure of the moment (memory, a
signal, a full disk) says nothing about the graph; an error that the compiler diagnosed does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from neff.protocol import safe_text

# Of a log, so much of its start and of its end is read: the command is at the start, the diagnosis near the end.
EDGE_BYTES = 65_536
_TEXT_CHARS = 160


@dataclass(frozen=True)
class Failure:
    """What a log tells.

    Attributes:
        reason: short code, see docs/operations.md.
        is_transient: whether the same compile may well succeed at another time.
        text: the line of the log that says so, printable; empty if there is none.
    """

    reason: str
    is_transient: bool
    text: str = ""


@dataclass(frozen=True)
class _Rule:
    """A failure that `pattern` proves; ``source` says who writes so: a section of the
    Neuron contract (what is publicly known of the stack), or a system's own words."""

    reason: str
    is_transient: bool
    pattern: re.Pattern[str]
    source: str


def _rule(reason: str, pattern: str, source: str, *, is_transient: bool) -> _Rule:
    return _Rule(reason, is_transient, re.compile(pattern), source)


# "exit code -9", "exited with code 137", "returned non-zero exit status 70", "returncode=-6"
_CODE = r"(?i:exit(?:ed)?|return(?:ed)?)[\w -]{0,24}?(?i:code|status)[:=]? ?"

# The first that matches decides. What proves a cause outside of the compiler goes before a diagnosis, because the
# compiler reports such an end with an id and exit code 70 too; what is only a way to die goes after it.
RULES = (
    _rule(
        "out-of-memory",
        r"\[F137\]|(?i:neuronx-cc was forcibly killed|insufficient system memory)",
        "contract 5.3: exit 70 with F137 is the kernel's out-of-memory killer",
        is_transient=True,
    ),
    _rule(
        "out-of-memory",
        r"std::bad_alloc|\bMemoryError\b|Cannot allocate memory|\boom[-_ ]kill",
        "C++, Python, errno ENOMEM, the kernel's log",
        is_transient=True,
    ),
    _rule(
        "interrupted",
        r"\bKeyboardInterrupt\b|^Failed compilation: interrupted|\bSIG(?:INT|TERM|HUP)\b"
        rf"|{_CODE}(?:-1|-2|-15|129|130|143)\b",
        "contract 1.3: Ctrl-C leaves a log too; 5.3: an end by request",
        is_transient=True,
    ),
    _rule("killed", rf"\bSIGKILL\b|^Killed$|{_CODE}(?:137|-9)\b", "contract 5.3: -9 and 137", is_transient=True),
    _rule(
        "disk-full",
        r"No space left on device|Disk quota exceeded|\bENOSPC\b",
        "errno ENOSPC and EDQUOT, in the compiler's work directory",
        is_transient=True,
    ),
    _rule(
        "not-started",
        r"\bModuleNotFoundError\b|error while loading shared libraries"
        r"|(?:No such file or directory|Permission denied): '[^']{0,256}neuronx-cc'"
        rf"|\bneuronx-cc: (?:(?:command )?not found|Permission denied)|{_CODE}12[67]\b",
        "contract 5.1: 127 where exec failed, 126 before it; Python, the loader and shells in their own words",
        is_transient=True,
    ),
    _rule(
        "compiler-error",
        r"\bNCC_[A-Z0-9_]{2,40}\b|\[[A-Z]{3}[0-9]{3}\]",
        "contract 5.3: NCC_*, [XTP003], [TEN404], [NLA001], [DVR002]",
        is_transient=False,
    ),
    _rule(
        "crashed",
        rf"\bSIG(?:SEGV|ABRT|BUS|ILL|FPE)\b|Segmentation fault|core dumped|{_CODE}(?:13\d|-\d{{1,2}})\b",
        "contract 5.3: -6 abort, -11 segmentation fault",
        is_transient=True,
    ),
    _rule(
        "bad-arguments",
        r"neuronx-cc: error: |unrecognized arguments|invalid choice:",
        "argparse, exit 2: the same flags are refused again",
        is_transient=False,
    ),
    _rule(
        "compiler-exit",
        rf"{_CODE}(?!0\b|70\b)\d{{1,3}}\b",
        "contract 5.3: an exit code that is no signal and not 70",
        is_transient=False,
    ),
)
# Nothing of the above: often exit 70 without a diagnosis, which passes (contract 5.3, SDK issue 1369).
_NO_DIAGNOSIS = "no-diagnosis"


def classify(log: bytes) -> Failure:
    """Tell from a log, or its two ends, whether the failure was of the moment; never raises."""
    text = log.decode("utf-8", "replace").replace("\r", "\n")
    lines = [line for line in map(str.strip, _without_command(text).split("\n")) if line]
    for rule in RULES:
        for line in lines:
            if rule.pattern.search(line):
                return Failure(rule.reason, rule.is_transient, _shown(line, rule.pattern))
    return Failure(_NO_DIAGNOSIS, True, _cut(lines[-1]) if lines else "")


# Stock's first line holds the command; a path in it may well be called `killed`.
_COMMAND = re.compile(r"\AFailed compilation with (?:\[[^\]\n]*\]|[^\n:]*):?")


def _without_command(text: str) -> str:
    return _COMMAND.sub("", text, count=1)


def _shown(line: str, pattern: re.Pattern[str]) -> str:
    """The line, or where it is long, the part from shortly before what was found."""
    found = pattern.search(line)
    start = found.start() if found is not None and len(line) > _TEXT_CHARS else 0
    return _cut(line[max(0, start - 20) :])


def _cut(line: str) -> str:
    line = line[: _TEXT_CHARS * 2].strip()
    return safe_text(line if len(line) <= _TEXT_CHARS else line[: _TEXT_CHARS - 1] + "…")
