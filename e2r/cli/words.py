"""What is wrong with the words of a command line, in one sentence instead of tyro's box."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

RULE = re.compile(r"^[─-]{9,}$")
"""A line that divides a box into its parts. Some terminals have no characters for boxes."""
UNKNOWN = "Unrecognized options"
"""Where tyro says this, an option is misspelt."""
MISSING = re.compile(r"Missing from [^:]*: (?:\[?(?:-\w, )?)(--[\w.\-]+|[A-Z]+)\b")
"""How tyro names an option that must be given."""
FIELD = re.compile(r"(?<![\w.\-/])[a-z]\w*(?:\.[a-z]\w*)+(?![\w/(])")
"""A field of the settings, by its dotted name."""


def explain_words(words: Sequence[str], options: Collection[str], printed: str) -> str | None:
    """Says in one sentence why words cannot be parsed; None where that cannot be told.

    Args:
      words: of the command line.
      options: all options of the command, with their hyphens.
      printed: by tyro.
    """
    unknown = next((name for name in map(_name, words) if name and name not in options), None)
    if unknown is not None and UNKNOWN in printed:
        near = nearest(unknown, options)
        remedy = f"did you mean {near}?" if near else "--help lists the options"
        return f"{unknown}: no such option; {remedy}"
    return _first_part(printed)


def nearest(word: str, options: Collection[str]) -> str | None:
    """The option that is spelt most like a word; None where none is like it.

    Args:
      word: with its hyphens.
      options: with theirs.
    """
    found = difflib.get_close_matches(word, sorted(options), n=1, cutoff=0.6)
    if not found and "." not in word:  # an option that was given without its group
        last = {name.rsplit(".", 1)[-1].removeprefix("--"): name for name in sorted(options)}
        group = difflib.get_close_matches(word.removeprefix("--"), last, n=1, cutoff=0.8)
        found = [last[name] for name in group]
    return found[0] if found else None


def as_typed(sentence: str, options: Collection[str]) -> str:
    """Puts options for the names of fields, ``--a.long-name`` for ``a.long_name``.

    Args:
      sentence: which may name fields of the settings.
      options: all options of the command; other names stay as they are.
    """

    def option(match: re.Match[str]) -> str:
        name = match[0].replace("_", "-")
        within = [one for one in options if one == f"--{name}" or one.endswith(f".{name}")]
        alone = f"--{name.split('.', 1)[1]}"  # the command may name no section
        if not within and alone in options:
            return alone
        return within[0] if len(within) == 1 else match[0]

    return FIELD.sub(option, sentence)


def options_in(help_text: str) -> set[str]:
    """The options that a help text lists, with their hyphens."""
    lines = (re.match(r"^│?\s*((?:-\w, )?--[a-z].*)", line) for line in help_text.splitlines())
    found = (re.findall(r"(?<![\w-])--[a-z][\w.\-]*", match[1]) for match in lines if match)
    return {name for names in found for name in names}


def _name(word: str) -> str | None:
    """The option that a word gives, with hyphens as tyro knows it; None for another word."""
    name = word.split("=", 1)[0].replace("_", "-")
    return name if re.match(r"--[a-z]", name) and name != "--help" else None


def _first_part(printed: str) -> str | None:
    """The text in the first part of a box, as one line; None where there is no box."""
    part = [line.strip("│ ") for line in printed.splitlines()][1:]  # the first one is the title
    if printed[:1] == " ":
        part = part[1:]  # without characters for boxes, a rule is below the title
    rule = next((place for place, line in enumerate(part) if RULE.match(line)), None)
    if rule is None:
        return None
    part = part[:rule]
    text = re.sub(r"^Error parsing ", "", " ".join(" ".join(part).split()))
    missing = MISSING.match(text)
    return f"{missing[1]} is missing; --help says what it is" if missing else text or None
