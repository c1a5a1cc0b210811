"""Adds masked captions to the training data: the object's name becomes `<|replace|>`, the rest stays.

    python scripts/mask_captions.py cc/Train_GCC-training_output.csv                 # adds the column in place
    python scripts/mask_captions.py cc/Train_GCC-training.tsv --output cc/train_masked.tsv
    python scripts/mask_captions.py "cc_data/train/{00000..00331}.tar" --output cc_data/train_masked
    python scripts/mask_captions.py LIST --parser spacy:en_core_web_sm --processes 8
    python scripts/mask_captions.py --evaluate tests/data/masking_cases.txt          # accuracy and speed

Lists (TSV, CSV, Parquet) gain a column, WebDataset shards a field of each sample's JSON. Stopped, the same
command goes on. Policies: `subject` masks the noun chunk that is the grammatical subject, else the first
one; `head-noun` only the noun of that chunk; `all-nouns` every noun. The parser is spaCy's en_core_web_sm
where it is installed (`pip install spacy && python -m spacy download en_core_web_sm`), else a set of rules
without any dependency that is good for the toy world and a makeshift for the web's captions
(docs/data.md).
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from context_i2w.command_line import OptionError, Options, option, parse
from context_i2w.data.tables import read_table
from context_i2w.errors import UserError
from context_i2w.files import check_writable, is_text
from context_i2w.preparation.masking import cases as masking_cases
from context_i2w.preparation.masking import lists as masking_lists
from context_i2w.preparation.masking import shards as masking_shards
from context_i2w.preparation.masking.rule_parser import RuleParser
from context_i2w.preparation.masking.rules import POLICIES, Parser, mask_captions
from context_i2w.preparation.masking.spacy_parser import SpacyParser, installed, remedy
from context_i2w.preparation.script import resumable

DEFAULT_PIPELINE = "en_core_web_sm"


@dataclass(frozen=True)
class MaskingOptions(Options):
    source: tuple[str, ...] = option((), "a list, or shards: folder, paths or brace pattern", positional=True)
    output: Path | None = option(None, "the new list, or the folder of the new shards", metavar="LIST|DIR")
    policy: str = option("subject", "what is masked", choices=tuple(POLICIES))
    parser: str = option("auto", "auto, rules or spacy:PIPELINE")
    processes: int = option(1, "processes of spaCy", at_least=1)
    caption_column: str | None = option(None, "left out: title or caption, whichever is there", metavar="NAME")
    masked_column: str = option(masking_lists.MASKED_COLUMN, "column or field to add", metavar="NAME")
    overwrite: bool = option(False, "make a column anew that is there")
    evaluate: Path | None = option(None, "measure the parser on annotated captions", metavar="CASES")
    show_errors: bool = option(False, "with --evaluate: list what is not as expected")

    def __post_init__(self):
        super().__post_init__()
        if bool(self.evaluate) == bool(self.source):
            raise UserError("name a list or shards, or --evaluate and a file of annotated captions")
        if not is_text(self.masked_column):
            raise OptionError("masked_column", self.masked_column, "lists are written in UTF-8, which can't hold it")


def make_parser(name: str, processes: int) -> Parser:
    """`rules`, `spacy:PIPELINE`, or `auto`: spaCy's small English pipeline if it is there, else the rules."""
    if name == "auto":
        name = f"spacy:{DEFAULT_PIPELINE}" if installed(DEFAULT_PIPELINE) else "rules"
        if name == "rules":
            how = remedy(DEFAULT_PIPELINE)
            print(f"note: spaCy's {DEFAULT_PIPELINE} is not installed (`{how}`); masking by rules", file=sys.stderr)
    if name == "rules":
        return RuleParser()
    if name.split(":")[0] != "spacy":
        raise UserError(f"unknown parser {name!r}; one of auto, rules, spacy:PIPELINE")
    return SpacyParser(name.partition(":")[2] or DEFAULT_PIPELINE, processes)


def evaluate(path: Path, parser: Parser, show: bool) -> None:
    """Prints accuracy by policy and group, and captions per second."""
    cases = masking_cases.read_cases(path)
    print(f"{len(cases)} captions, parser {parser.name}: exactly as expected")
    for score in masking_cases.score(cases, parser):
        print(f"{score.policy:<10} {score.group:<10} {score.right:>3} of {score.total} ({score.percent:.1f} %)")
        for expected, found in score.wrong if show else ():
            print(f"    expected {expected}\n    found    {found}")
    captions = [case.caption for case in cases] * max(1, 10_000 // len(cases))
    begin = time.perf_counter()
    for _ in mask_captions(captions, parser, "subject"):
        pass
    print(f"{len(captions) / (time.perf_counter() - begin):,.0f} captions per second")


def output_of(sources: Sequence[str], given: Path | None) -> Path:
    """Where the result goes: a list is changed in place unless it lacks a header, as Google's TSV does."""
    if given:
        return given
    source = Path(sources[0])
    if len(sources) > 1 or source.suffix == ".tar" or source.is_dir():
        raise UserError("shards are rewritten to another folder; name it with --output")
    if not read_table(source).has_header:
        raise UserError(f"{source} has no header and is left as it is; name the new list with --output")
    return source


def run(arguments: MaskingOptions, parser: Parser) -> str:
    """Masks lists or shards; returns the summary."""
    if any(source.endswith(".tar") or Path(source).is_dir() for source in arguments.source):
        output = output_of(arguments.source, arguments.output)
        shards = masking_shards.find_shards(arguments.source)
        summary = masking_shards.mask_shards(
            shards,
            output,
            parser,
            arguments.policy,
            masked_field=arguments.masked_column,
            progress=lambda shards: tqdm(shards, unit="shard", desc="masking"),
        )
        return f"{output}: {len(shards)} shards\n{summary.text()}"
    if len(arguments.source) > 1:
        raise UserError("one list at a time")
    output = output_of(arguments.source, arguments.output)
    check_writable(output, "--output")
    with tqdm(unit="caption", desc="masking", unit_scale=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        summary = masking_lists.mask_list(
            Path(arguments.source[0]),
            output,
            parser,
            arguments.policy,
            column=arguments.caption_column,
            masked_column=arguments.masked_column,
            overwrite=arguments.overwrite,
            progress=advance,
        )
    return f"{output}, column {arguments.masked_column!r}\n{summary.text()}"


@resumable
def main() -> None:
    arguments = parse(MaskingOptions, None, prog="python scripts/mask_captions.py", description=__doc__)
    caption_parser = make_parser(arguments.parser, arguments.processes)
    if arguments.evaluate:
        evaluate(arguments.evaluate, caption_parser, arguments.show_errors)
        return
    begin = time.perf_counter()
    summary = run(arguments, caption_parser)
    print(f"policy {arguments.policy}, parser {caption_parser.name}, {time.perf_counter() - begin:.0f} s")
    print(summary)


if __name__ == "__main__":
    main()
