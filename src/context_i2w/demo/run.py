"""What `src/demo.py` does once its command line is read."""

from __future__ import annotations

from pathlib import Path

from context_i2w.benchmarks import BENCHMARKS
from context_i2w.benchmarks.base import check_images_exist
from context_i2w.demo.engine import Engine, Look, by_title
from context_i2w.demo.gallery import render
from context_i2w.demo.options import GALLERIES, DemoSettings
from context_i2w.demo.server import Demo, is_loopback, serve
from context_i2w.distributed import Process, joined, launch, started_by_launcher
from context_i2w.errors import UserError
from context_i2w.evaluation.features import EncodingOptions
from context_i2w.evaluation.setup import choose_checkpoints, choose_data_root, device_asked
from context_i2w.files import check_writable
from context_i2w.model.clip_weights import TOY_MODEL
from context_i2w.search.files import Files, files_of_list
from context_i2w.search.galleries import Images, find_files
from context_i2w.search.index import Index
from context_i2w.search.retriever import Retriever

PROMPTS = ["a sketch of [*]", "a photo of [*] on a beach", "with a dog"]
TOY_PROMPTS = ["a photo of [*] at night", "is blue", "with a car"]
TOY_IMAGES = "cirr"
EXAMPLES = 3  # references taken if none is named


def run(settings: DemoSettings) -> None:
    """Loads, indexes (in so many processes as are asked for), and in one of them shows. Raises UserError."""
    processes = settings.machine.processes
    if processes > 1 and not started_by_launcher() and launch(_prepare, processes, settings) is None:
        raise KeyboardInterrupt
    with joined(device_asked(settings.machine)) as process:
        engine = prepared(settings, process)
        if process.is_first:
            _show(settings, engine)


def _prepare(settings: DemoSettings) -> bool:
    with joined(device_asked(settings.machine)) as process:
        prepared(settings, process)
    return True


def prepared(settings: DemoSettings, process: Process) -> Engine:
    """With its index made. Raises UserError."""
    if not settings.what.serve and not settings.what.explain:
        process.by_first(lambda: check_writable(Path(settings.what.output), "--output"))
    images = settings.question.images or TOY_IMAGES
    if not (images in GALLERIES or images.endswith(".tar") or Path(images).exists()):
        find_files(images)  # says what is wrong, before CLIP's weights are fetched
    retrievers = load(settings, process)
    return Engine(make_index(settings, next(iter(retrievers.values())), process), retrievers)


def _show(settings: DemoSettings, engine: Engine) -> None:
    print(f"{len(engine.index):,} images of {engine.index.files.title}, features in {engine.index.store.folder}")
    if settings.index.factory:
        engine.index.approximate(settings.index.factory, settings.index.parameters)
    if settings.what.export:
        print(f"wrote {', '.join(map(str, engine.index.export(settings.what.export, settings.what.export_part)))}")
    prompts = prompts_for(settings, engine)
    if settings.what.serve:
        run_server(engine, prompts, settings.what.host, settings.what.port)
    elif settings.what.explain:
        explain(engine, references(settings, engine), prompts)
    else:
        write_gallery(settings, engine, references(settings, engine), prompts)


def load(settings: DemoSettings, process: Process) -> dict[str, Retriever]:
    """The mappers by title; those named, else CLIP alone if it is named, else the newest run's or the shipped."""
    model, device = settings.model, process.device
    if model.is_clip_alone:
        return by_title([Retriever.from_clip(model.model, model.weights or "openai", device)], [""])
    sources = list(map(str, process.by_first(lambda: choose_checkpoints(model.resume, shipped=2))))
    first = Retriever.load(sources[0], model.model, model.weights, device, model.trust_code)
    others = [first.beside(source, model.trust_code) for source in sources[1:]]
    return by_title([first, *others], sources)


def prompts_for(settings: DemoSettings, engine: Engine) -> list[str]:
    return list(settings.question.prompts) or (TOY_PROMPTS if engine.retriever.clip.name == TOY_MODEL else PROMPTS)


def make_index(settings: DemoSettings, retriever: Retriever, process: Process) -> Index:
    """The index over the images asked for. Raises UserError if they are not there."""
    images = settings.question.images
    if images is None:
        if retriever.clip.name != TOY_MODEL:
            raise UserError("--images DIR: which folder of images is to be searched?")
        images = TOY_IMAGES
    found: Images = images
    if images in GALLERIES and not Path(images).is_dir():
        found = gallery_of(images, process.by_first(lambda: choose_data_root(settings.data_root, retriever.clip)))
    options = EncodingOptions(settings.machine.batch_size, settings.machine.workers, process=process)
    parts = settings.what.export and not Path(settings.what.export).suffix  # of millions, which nobody looks at
    return retriever.index(found, settings.index.cache, options, thumbnails=not parts)


def gallery_of(title: str, data_root: Path) -> Files:
    """The images that a benchmark ranks. Raises UserError if they are not there."""
    name, options = GALLERIES[title]
    benchmark = BENCHMARKS[name].load(data_root, options or BENCHMARKS[name].options())
    check_images_exist(benchmark)
    return files_of_list([source.path for group in benchmark.groups for source in group.gallery], title)


def references(settings: DemoSettings, engine: Engine) -> list[tuple[str, Look]]:
    """(name, look) of the images asked for, else of a few spread over the gallery."""
    index = engine.index
    if settings.question.query:
        return [(Path(query).name, engine.look(query, *index.names_of(query)[:1])) for query in settings.question.query]
    chosen = [index.names[number * len(index) // EXAMPLES] for number in range(min(EXAMPLES, len(index)))]
    return [(name, engine.look(index.path(name), name)) for name in chosen]


def write_gallery(settings: DemoSettings, engine: Engine, looks: list[tuple[str, Look]], prompts: list[str]) -> None:
    asked = settings.question
    method = asked.method or engine.method
    answers = [
        (name, look, engine.answer(look, prompt, asked.k, asked.compare, asked.heat_maps, False, method))
        for name, look in looks
        for prompt in prompts
    ]
    pictures = f"{len(engine.index):,} images of {engine.index.files.title}"
    about = f"{pictures}; {engine.retriever.clip.name}; queries: {method}; scores are cosines"
    path = Path(settings.what.output)
    path.write_text(render("Composed image retrieval", about, answers, engine.index), encoding="utf-8")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def explain(engine: Engine, looks: list[tuple[str, Look]], prompts: list[str]) -> None:
    """Prints the words nearest to each pseudo-word token. Raises UserError if there is no mapper."""
    if engine.retriever.mapper is None:
        raise UserError("--explain tells of pseudo-word tokens, and CLIP alone makes none; give a mapper by --resume")
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
