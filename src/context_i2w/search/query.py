"""What a user types, as a prompt for CLIP and the references that its placeholders stand for."""

from dataclasses import dataclass

from context_i2w.errors import UserError
from context_i2w.model.prompts import MARK, PLACEHOLDER_ID, Tokenizer, fill, numbered_template, template
from context_i2w.model.queries import IMAGE_ALONE

PAPER_TEMPLATE = "a photo of [*] , {description}"


@dataclass(frozen=True)
class Query:
    """text: the prompt, its placeholders as MARK. words: which reference (from 0) each placeholder stands for.

    plain: the description without placeholders, for the text-only row.
    """

    text: str
    words: tuple[int, ...]
    plain: str


def parse_query(description: str, references: int) -> Query:
    """The query meant by a description beside so many reference images.

    `[*]` is the reference; of several, `[*1]` is the first. A description without either becomes the paper's
    `a photo of [*] , {description}`. Raises UserError if placeholders and references do not match.
    """
    marked, numbers = numbered_template(description)
    if not numbers:
        if references != 1:
            raise UserError(f"{description!r}: {references} references, so write where they go: [*1], [*2]")
        plain = description.strip()
        text = fill(PAPER_TEMPLATE, description=plain) if plain else template(IMAGE_ALONE)
        return Query(text, (0,), plain)
    if None in numbers and (references != 1 or any(numbers)):
        raise UserError(f"{description!r}: with several references number every placeholder: [*1], [*2]")
    words = tuple((number or 1) - 1 if number != 0 else -1 for number in numbers)
    if set(words) != set(range(references)):
        asked = ", ".join(f"[*{number}]" for number in sorted({word + 1 for word in words}))
        raise UserError(f"{description!r} asks for {asked}, but there are {references} references")
    return Query(marked, words, " ".join(marked.replace(MARK, " ").split()))


def parse_text(description: str) -> Query:
    """A query of text alone, as CLIP reads it. Raises UserError for a placeholder or an empty description."""
    marked, numbers = numbered_template(description)
    if numbers:
        raise UserError(f"{description!r}: no reference image for [*] to stand for; choose one, or leave [*] out")
    if not marked.strip():
        raise UserError("nothing to search for: choose a reference image, write a description, or both")
    return Query(marked.strip(), (), marked.strip())


def check_length(query: Query, tokenizer: Tokenizer) -> None:
    """Raises UserError if a placeholder lies beyond what CLIP's text tower reads."""
    ids = tokenizer([query.text])[0]
    if int((ids == PLACEHOLDER_ID).sum()) != len(query.words):
        raise UserError(
            f"the description is too long: CLIP reads {tokenizer.context_length - 2} word pieces "
            "and a placeholder comes later; put it earlier"
        )
