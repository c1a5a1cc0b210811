"""Writes which of open_clip's models and tags are accepted and which are refused, and why, as a page of docs/.

    python scripts/list_backbones.py --output docs/backbones.md
Nothing is fetched: open_clip's configurations tell.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import UserError, exit_on_user_error

HEAD = """\
# CLIP models

Which of the {names} models of open_clip {version} can be named with `--model`: {accepted} are CLIPs of the kind that
the method needs, {refused} are refused before anything is fetched. Written by
`python scripts/list_backbones.py --output docs/backbones.md`; `tests/model/test_backbones.py` compares image, text and
transform of every accepted name and tag with open_clip's own.

## Accepted

`-` under tags: open_clip has no weights, a file is needed. QuickGELU and a transform other than CLIP's are a tag's.

| model | tags | QuickGELU | other transform |
|---|---|---|---|"""


@dataclass(frozen=True)
class BackboneOptions(Options):
    output: Path | None = option(None, "the page; left out: it is printed", metavar="FILE.md")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(BackboneOptions, argv, prog="python scripts/list_backbones.py", description=__doc__)
    from context_i2w.files import write_text

    page = "\n".join(lines()) + "\n"
    write_text(asked.output, page) if asked.output else print(page, end="")


def lines() -> Iterator[str]:
    """Of the page. Imports here and below are slow; --help does without."""
    import open_clip

    from context_i2w.model.backbones import TOY_MODEL, supported_config

    accepted, refused = [], defaultdict(list)
    for name in (name for name in open_clip.list_models() if name != TOY_MODEL):
        try:
            supported_config(name)
            accepted.append(name)
        except UserError as error:
            reason = re.search(r"its (\w+) has '(\w+)'", str(error))
            refused[f"`{reason[1]}.{reason[2]}`"].append(name)
    count = sum(map(len, refused.values()))
    names = len(accepted) + count
    yield HEAD.format(names=names, version=version("open_clip_torch"), accepted=len(accepted), refused=count)
    for name in accepted:
        yield f"| {name} | {' | '.join(_row(name))} |"
    yield "\n## Refused\n\n| its configuration's entry | models |\n|---|---|"
    for reason, models in sorted(refused.items(), key=lambda item: -len(item[1])):
        yield f"| {reason} | {', '.join(models)} |"


def _row(name: str) -> tuple[str, str, str]:
    import open_clip

    from context_i2w.model.file_facts import tag_configuration

    tags = {tag: tag_configuration(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)}
    quick = [tag for tag, facts in tags.items() if facts["activation"] == "QuickGELU"]
    other = [f"{tag}: {difference}" for tag, facts in tags.items() if (difference := _difference(facts))]
    return str(len(tags) or "-"), ", ".join(quick) if len(quick) < len(tags) or not tags else "all", "; ".join(other)


def _difference(facts: dict) -> str:
    from context_i2w.model.identity import clip_transform, transform_of

    transform, clip = transform_of(facts, facts["size"]), clip_transform(facts["size"])
    mean = f"mean {transform.mean[0]:g}" if transform.mean != clip.mean else None
    return ", ".join(filter(None, (mean, transform.deviation)))


if __name__ == "__main__":
    main()
