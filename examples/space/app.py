"""A page for composed image retrieval: a picture, a description, the pictures that answer both.

CHECKPOINT: what `Retriever.load` takes; empty: CLIP alone. PICTURES: the folder to search through. Without either, the
toy model searches through a few pictures that it draws.
"""

import os
from pathlib import Path

import gradio as gr
import torch

from context_i2w import Retriever
from context_i2w.errors import UserError
from context_i2w.model.queries import parse_method
from context_i2w.toy_world import Sizes, make_toy_world

METHODS = ("composed", "blended", "slerp", "image+text", "image")
TITLE = "# Composed image retrieval\nA picture, and what should be different; or only one of the two."


def toy_pictures() -> Path:
    return make_toy_world(Path("toy_world"), sizes=Sizes.mini()) / "test" / "cirr"


def page(retriever: Retriever, folder: Path) -> gr.Blocks:
    """Searches through the folder's pictures; its one endpoint is "/search"."""
    index = retriever.index(folder)
    methods = [name for name in METHODS if retriever.mapper or not parse_method(name).uses_mapper]

    def search(picture: str | None, description: str, method: str, count: float) -> list[tuple[str, str]]:
        try:
            if picture:
                hits = index.search(picture, description, int(count), method)
            else:
                [hits] = index.nearest(torch.from_numpy(retriever.encode(texts=description)), int(count))
        except UserError as error:
            raise gr.Error(str(error)) from None
        return [(str(hit.path), f"{hit.score:.3f}  {hit.name}") for hit in hits]

    with gr.Blocks(title="Composed image retrieval") as blocks:
        gr.Markdown(f"{TITLE} {len(index)} pictures, {retriever.clip.name}.")
        with gr.Row():
            with gr.Column(scale=1):
                picture = gr.Image(type="filepath", label="reference picture")
                description = gr.Textbox(label="description", placeholder="a photo of [*] at night")
                method = gr.Dropdown(methods, value=retriever.default_method, label="query")
                count = gr.Slider(1, 50, value=12, step=1, label="results")
                button = gr.Button("Search", variant="primary")
            results = gr.Gallery(label="results", columns=4, object_fit="contain", scale=2)
        inputs = [picture, description, method, count]
        gr.on([button.click, description.submit], search, inputs, results, api_name="search")
    return blocks


if __name__ == "__main__":
    checkpoint = os.environ.get("CHECKPOINT", "toy")
    pictures = Path(os.environ["PICTURES"]) if "PICTURES" in os.environ else toy_pictures()
    retriever = Retriever.load(checkpoint) if checkpoint else Retriever.from_clip()
    page(retriever, pictures).launch(allowed_paths=[str(pictures.resolve())])
