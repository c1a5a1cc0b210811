"""The README.md that goes with a shared mapper."""

from typing import Any

from context_i2w.model.mappers import Mapper

BASE_MODELS = {
    ("ViT-L-14", "openai"): "openai/clip-vit-large-patch14",
    ("ViT-B-32", "openai"): "openai/clip-vit-base-patch32",
    ("ViT-B-16", "openai"): "openai/clip-vit-base-patch16",
}
TEXT = """\
---
library_name: context-i2w
license: apache-2.0
tags:
- composed-image-retrieval
- zero-shot
- clip
{base}---

# {title}

A {method} mapping network for composed image retrieval.
It turns a reference image{context} into one pseudo-word token,
which CLIP's text tower reads in place of a word. {parameters:,} parameters, trained for {steps} steps.

CLIP is not in this repository: it is `{clip}` with weights `{weights}`. Loading checks the weights' SHA-256:
`{hash}`

## Use

```python
from context_i2w import Retriever

retriever = Retriever.load("{source}")
index = retriever.index("my_photos/")
hits = index.search("ref.jpg", "{example}", k=10)
```

## Limits

It finds what CLIP can tell apart, with CLIP's biases. Composed retrieval is zero-shot: no triplets of reference
image, description and target were used in training. Not for identifying people.
{toy}"""
TOY = """
This one belongs to the toy world: small drawn pictures, a tiny CLIP and a vocabulary of 64 words.
It shows that the code works and knows nothing of photographs.
"""


def model_card(config: dict[str, Any], mapper: type[Mapper], parameters: int, source: str) -> str:
    """Markdown with the hub's front matter, from config.json's content. source: what Retriever.load is given."""
    clip = config["clip"]
    title = getattr(mapper, "title", mapper.__name__)
    base = BASE_MODELS.get((clip["model"], clip["pretrained"]))
    is_toy = clip["model"].startswith("toy")
    sees = mapper.uses_condition and config["mapper"]["options"].get("condition", True)
    return TEXT.format(
        base=f"base_model: {base}\n" if base else "",
        title=f"{title} for {clip['model']}",
        method=f"[{title}]({mapper.paper})" if mapper.paper else title,
        context=" and the description that goes with it" if sees else "",
        parameters=parameters,
        steps="an unknown number of" if config["step"] is None else f"{config['step']:,}",
        clip=clip["model"],
        weights=clip["pretrained"],
        hash=clip["weights_hash"],
        source=source,
        example="a photo of [*] at night" if is_toy else "a photo of [*] on a beach",
        toy=TOY if is_toy else "",
    )
