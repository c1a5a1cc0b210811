"""Captions with hand-written masks, and how many of them a parser gets right."""

import re
from pathlib import Path
from typing import NamedTuple

from context_i2w.errors import UserError
from context_i2w.preparation.masking.rules import PLACEHOLDER, POLICIES, Parser, mask_captions


class Case(NamedTuple):
    """A caption and its expected masked form for each policy; `group` is the heading it stands under."""

    caption: str
    expected: dict[str, str]
    group: str


def read_cases(path: Path) -> list[Case]:
    """Reads annotated captions: `[` `]` around the object's chunk, `{` `}` around nouns, `== heading` lines.

    Raises UserError for a missing file or marks that do not fit together.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    cases, group = [], "all"
    for number, line in enumerate(lines, 1):
        if line.startswith("== "):
            group = line[3:].split(":")[0]
        elif line.strip() and not line.startswith("#"):
            try:
                cases.append(_read_case(line.strip(), group))
            except ValueError as error:
                raise UserError(f"{path}, line {number}: {error}") from None
    if not cases:
        raise UserError(f"{path}: no annotated captions")
    return cases


def _read_case(line: str, group: str) -> Case:
    def plain(text: str) -> str:
        return re.sub(r"[\[\]{}]", "", text)

    chunk = re.search(r"\[([^\[\]]*)\]", line)
    if not chunk and re.search(r"[\[\]{}]", line):
        raise ValueError("nouns are marked but no chunk")
    every = plain(re.sub(r"\{[^{}]*\}", PLACEHOLDER, line))
    if not chunk:
        return Case(line, dict.fromkeys(POLICIES, line), group)
    before, inside, after = plain(line[: chunk.start()]), chunk[1], plain(line[chunk.end() :])
    nouns = list(re.finditer(r"\{([^{}]*)\}", inside))
    if not nouns:
        raise ValueError("the chunk has no noun")
    head = nouns[-1][1].split()[-1]
    end = nouns[-1].end() - 1
    named = f"{plain(inside[: end - len(head)])}{PLACEHOLDER}{plain(inside[end:])}"
    subject, head_noun = f"{before}{PLACEHOLDER}{after}", f"{before}{named}{after}"
    return Case(plain(line), {"subject": subject, "head-noun": head_noun, "all-nouns": every}, group)


class Score(NamedTuple):
    """Cases of a group that were masked exactly as expected by a policy, and those that were not."""

    policy: str
    group: str
    right: int
    total: int
    wrong: tuple[tuple[str, str], ...]  # expected, found

    @property
    def percent(self) -> float:
        return 100 * self.right / max(self.total, 1)


def score(cases: list[Case], parser: Parser) -> list[Score]:
    """Exact matches for each policy and group."""
    scores = []
    for policy in POLICIES:
        found = [masked.caption for masked in mask_captions([case.caption for case in cases], parser, policy)]
        for group in dict.fromkeys(case.group for case in cases):
            pairs = [(case.expected[policy], text) for case, text in zip(cases, found) if case.group == group]
            wrong = tuple(pair for pair in pairs if pair[0] != pair[1])
            scores.append(Score(policy, group, len(pairs) - len(wrong), len(pairs), wrong))
    return scores
