"""What `src/demo.py` does once its command line is read."""

from __future__ import annotations

import argparse
from pathlib import Path

from context_i2w.checkpoints.find import newest_checkpoint, shipped_checkpoints
from context_i2w.demo.engine import Engine, Look, by_title
from context_i2w.demo.gallery import render
from context_i2w.demo.gallery_images import find_images, is_benchmark
from context_i2w.demo.server import Demo, is_loopback, serve
from context_i2w.errors import UserError
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.setup import LOGS, choose_data_root, choose_device
from context_i2w.files import check_writable
from context_i2w.model.clip_weights import TOY_MODEL
from context_i2w.search.files import Files
from context_i2w.search.index import Index
from context_i2w.search.retriever import Retriever

PROMPTS = ["a sketch of [*]", "a photo of [*] on a beach", "with a dog"]
TOY_PROMPTS = ["a photo of [*] at night", "is blue", "with a car"]
TOY_IMAGES = "cirr"
EXAMPLES = 3  # references taken if none is named


def run(arguments: argparse.Namespace) -> None:
    """Loads, indexes, and writes a gallery, explains or serves. Raises UserError."""
    if not arguments.serve and not arguments.explain:
        check_writable(Path(arguments.output), "--output")
    retrievers = load(arguments)
    engine = Engine(make_index(arguments, next(iter(retrievers.values()))), retrievers)
    if arguments.export:
        print(f"wrote {', '.join(map(str, engine.index.export(arguments.export)))}")
    prompts = prompts_for(arguments, engine)
    if arguments.serve:
        run_server(engine, prompts, arguments.host, arguments.port)
    elif arguments.explain:
        explain(engine, references(arguments, engine), prompts)
    else:
        write_gallery(arguments, engine, references(arguments, engine), prompts)


def load(arguments: argparse.Namespace) -> dict[str, Retriever]:
    """The mappers by title; those named, else the newest run's, else the shipped ones."""
    sources = arguments.resume or default_checkpoints()
    device = choose_device(arguments.gpu, arguments.device)
    pretrained = "openai" if arguments.openai_pretrained else arguments.pretrained
    first = Retriever.load(sources[0], arguments.model, pretrained, device)
    return by_title([first, *(first.beside(source) for source in sources[1:])], list(map(str, sources)))


def default_checkpoints() -> list[Path]:
    """The newest run's, else all that are shipped, Context-I2W first."""
    newest = newest_checkpoint(LOGS)
    found = [newest] if newest is not None else shipped_checkpoints()
    if not found:
        raise UserError("no run under logs/ and no shipped checkpoint; train by `python src/main.py` or give --resume")
    return found


def prompts_for(arguments: argparse.Namespace, engine: Engine) -> list[str]:
    return arguments.prompts or (TOY_PROMPTS if engine.retriever.clip.name == TOY_MODEL else PROMPTS)


def make_index(arguments: argparse.Namespace, retriever: Retriever) -> Index:
    """The index over the images asked for. Raises UserError if they are not there."""
    images = arguments.images
    if images is None:
        if retriever.clip.name != TOY_MODEL:
            raise UserError("--images DIR: which folder of images is to be searched?")
        images = TOY_IMAGES
    files: Files | str = images
    if is_benchmark(images):
        files = find_images(images, choose_data_root(arguments.data_root, retriever.clip))
    index = retriever.index(files, arguments.cache, EncodingOptions(arguments.batch_size, arguments.workers))
    print(f"{len(index):,} images of {index.files.title}, features in {index.store.folder}")
    if arguments.factory:
        index.approximate(arguments.factory, arguments.parameters)
    return index


def references(arguments: argparse.Namespace, engine: Engine) -> list[tuple[str, Look]]:
    """(name, look) of the images asked for, else of a few spread over the gallery."""
    if arguments.query:
        root = engine.index.files.root.resolve()
        looks = []
        for query in arguments.query:
            path = Path(query).resolve()
            inside = path.relative_to(root).as_posix() if path.is_relative_to(root) else None
            looks.append((Path(query).name, engine.look(query, inside)))
        return looks
    names = engine.index.names
    chosen = [names[number * len(names) // EXAMPLES] for number in range(min(EXAMPLES, len(names)))]
    return [(name, engine.look(engine.index.path(name), name)) for name in chosen]


def write_gallery(
    arguments: argparse.Namespace, engine: Engine, looks: list[tuple[str, Look]], prompts: list[str]
) -> None:
    answers = [
        (name, look, engine.answer(look, prompt, arguments.k, arguments.compare, arguments.heat_maps, False))
        for name, look in looks
        for prompt in prompts
    ]
    about = (
        f"{len(engine.index):,} images of {engine.index.files.title}; {engine.retriever.clip.name}; scores are cosines"
    )
    path = Path(arguments.output)
    path.write_text(render("Composed image retrieval", about, answers, engine.index), encoding="utf-8")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def explain(engine: Engine, looks: list[tuple[str, Look]], prompts: list[str]) -> None:
    """Prints, for each reference and description, the words of CLIP nearest to each mapper's pseudo-word token."""
    for name, look in looks:
        print(f"\n{name}")
        for prompt in prompts:
            answer = engine.answer(look, prompt, k=1, with_maps=False)
            print(f"  {answer.prompt}")
            for title, words in answer.words.items():
                print(f"    {title}: {', '.join(f'{word} {cosine:.2f}' for word, cosine in words)}")


def run_server(engine: Engine, examples: list[str], host: str, port: int) -> None:
    """Serves until Ctrl-C."""
    server = serve(Demo(engine, examples), host, port)
    if not is_loopback(host):
        print(f"warning: {host} can be reached from other machines, and everyone there sees these images")
    print(f"open http://{host}:{server.server_address[1]}/ (Ctrl-C ends)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print()
    finally:
        server.server_close()
