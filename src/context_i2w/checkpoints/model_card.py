"""The README.md that goes with a shared mapper: model_card.md, filled in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from context_i2w.model.mappers import Mapper

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

TEMPLATE = Path(__file__).with_suffix(".md")
BASE_MODELS = {
    ("ViT-L-14", "openai"): "openai/clip-vit-large-patch14",
    ("ViT-B-32", "openai"): "openai/clip-vit-base-patch32",
    ("ViT-B-16", "openai"): "openai/clip-vit-base-patch16",
}
TOY = """
This one belongs to the toy world: small drawn pictures, a tiny CLIP and a vocabulary of 64 words.
It shows that the code works and knows nothing of photographs.
"""


def model_card(
    config: dict[str, Any], mapper: type[Mapper], parameters: int, source: str, results: Sequence[EvalResult] = ()
) -> str:
    """Markdown with the hub's front matter, from config.json's content. source: what Retriever.load is given.

    results: of `read_results`, which go into the metadata and a table.
    """
    from huggingface_hub import ModelCardData

    clip = config["clip"]
    data = ModelCardData(
        library_name="context-i2w",
        license="apache-2.0",
        base_model=BASE_MODELS.get((clip["model"], clip["pretrained"])),
        tags=["composed-image-retrieval", "zero-shot", "clip"],
        model_name=source if results else None,
        eval_results=list(results) or None,
    )
    title = getattr(mapper, "title", mapper.__name__)
    is_toy = clip["model"].startswith("toy")
    sees = mapper.uses_condition and config["mapper"]["options"].get("condition", True)
    text = TEMPLATE.read_text(encoding="utf-8").format(
        metadata=data.to_yaml(),
        title=f"{title} for {clip['model']}",
        method=f"[{title}]({mapper.paper})" if mapper.paper else title,
        context=" and the description that goes with it" if sees else "",
        parameters=parameters,
        steps="an unknown number of" if config["step"] is None else f"{config['step']:,}",
        clip=clip["model"],
        weights=clip["pretrained"],
        hash=clip["weights_hash"],
        source=source,
        example=f"a photo of [*] {'at night' if is_toy else 'on a beach'}",
        results=_table(results),
        toy=TOY if is_toy else "",
    )
    return text.rstrip() + "\n"


def _table(results: Sequence[EvalResult]) -> str:
    """A line for each benchmark and query, and the protocols."""
    if not results:
        return ""
    lines: dict[tuple[str, str | None], list[str]] = {}
    for result in results:
        numbers = lines.setdefault((result.dataset_name, result.metric_config), [])
        numbers.append(f"{result.metric_type} {result.metric_value:.2f}")
    rows = [f"| {benchmark} | {query} | {', '.join(numbers)} |" for (benchmark, query), numbers in lines.items()]
    told = {result.dataset_type: (result.dataset_args or {}).get("protocol") for result in results}
    protocols = [f"- {benchmark}: {protocol}" for benchmark, protocol in told.items()]
    head = ["", "## Results", "", "In percent.", "", "| benchmark | query | numbers |", "|---|---|---|"]
    return "\n".join([*head, *rows, "", *protocols, ""])
