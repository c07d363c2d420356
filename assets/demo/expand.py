"""Templates: `(a|b|)` is a choice, `<name>` a slot. A file of topics in, blocks of questions and answers out."""

import re
from pathlib import Path

CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")


def expand(rng, template: str, slots: dict | None = None) -> str:
    """One text of a template; choices may be nested."""
    while match := CHOICE.search(template):
        template = template[:match.start()] + rng.choice(match[1].split("|")) + template[match.end():]
    for name, value in (slots or {}).items():
        template = template.replace(f"<{name}>", value)
    return re.sub(r" +", " ", template).strip()


def topics(path: Path) -> list:
    """Blocks of (how often, questions, answers)."""
    blocks, often, asks, answers = [], 1, [], []
    for line in path.read_text().split("\n") + ["@ 0"]:
        kind, rest = line[:2], line[2:]
        if kind == "@ ":
            if asks:
                blocks.append((often, asks, answers))
            often, asks, answers = int(rest), [], []
        elif kind == "? ":
            asks.append(rest)
        elif kind == "! ":
            answers.append(rest)
    return blocks


def article(noun: str) -> str:
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
