"""Brings a store up to date with its files: only new and changed images pass the vision tower."""

import contextlib
import functools
from dataclasses import replace

import torch
from torch.nn.functional import normalize
from tqdm import tqdm

from context_i2w.data.reading import Images, batched, read_images
from context_i2w.evaluation.features import EncodingOptions, precision_of
from context_i2w.files import list_some, note
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import as_bytes, as_image
from context_i2w.search.files import Files
from context_i2w.search.journal import Journal
from context_i2w.search.parts import PartFiles
from context_i2w.search.pictures import PicturePreparation
from context_i2w.search.store import Store
from context_i2w.search.thumbnails import Thumbnails, thumbnail

FEW = 32  # so few images are read faster than reading processes start


def bring_up_to_date(
    store: Store, files: Files, clip: FrozenCLIP, options: EncodingOptions, thumbnails: Thumbnails | None = None
) -> None:
    """Encodes what is missing, drops what has vanished; can be interrupted and goes on where it was.

    Files that can't be read are kept in `store.contents.broken` and tried again when they change. thumbnails: of what
    is encoded. Several processes (options.process) share the batches of one; the first merges what they wrote.
    """
    process = options.process
    if process.by_first(lambda: store.is_complete(files.states)):
        return
    with contextlib.ExitStack() as held:
        opened: list[Journal] = []  # the first process's: a journal of millions is not sent to the others
        process.by_first(lambda: opened.append(held.enter_context(store.update())))
        names = process.by_first(lambda: store.missing(files.states, opened[0]))
        missing = {name: files.states[name] for name in names}
        own = opened[0] if process.is_first else Journal(store.folder, store.width, str(process.rank))
        if not isinstance(files, PartFiles):
            _encode(replace(files, states=missing), own, clip, options, thumbnails)
        elif missing and process.is_first:
            for names, rows in files.rows(clip):
                here = [number for number, name in enumerate(names) if name in missing]
                own.add([names[number] for number in here], missing, rows[here])
        process.everyone(None)  # is there
        if process.is_first:
            own.absorb()
            if store.finish(files.states, own) and thumbnails is not None:
                thumbnails.keep_only(files.states)
    if process.world > 1:
        process.everyone(None)
        store.read()


def report_broken(store: Store, files: Files) -> None:
    """One line on stderr for files that were left out, one for kinds of pictures that nothing here reads."""
    if files.unread:
        note(f"{files.root}: pictures of kinds that can't be read are left out: {files.unread_kinds}")
    if broken := [f"{name} ({reason})" for name, (_, reason) in store.contents.broken.items()]:
        named = list_some(broken, 3)
        note(f"{files.root}: {len(broken)} files left out, they can't be read as images: {named}")


def _encode(
    files: Files, journal: Journal, clip: FrozenCLIP, options: EncodingOptions, thumbnails: Thumbnails | None
) -> None:
    """This process's share of the files."""
    names = list(files.states)
    prepare = functools.partial(_pixels, names, files, PicturePreparation(*clip.transform), thumbnails)
    batches = options.process.share(batched(range(len(names)), options.batch_size))
    count = sum(map(len, batches))
    few = count <= FEW
    with tqdm(total=count, desc=f"indexing {files.root.name}", unit="image", disable=few or None) as bar:
        for images in read_images(prepare, batches, 0 if few else options.worker_count()):
            _encode_batch(images, names, journal, files, clip, options)
            bar.update(len(images.numbers) + len(images.broken))


def _encode_batch(
    images: Images, names: list[str], journal: Journal, files: Files, clip: FrozenCLIP, options: EncodingOptions
) -> None:
    reasons = {names[number]: error.reason for number, error in images.broken.items()}
    if images.numbers:
        with torch.inference_mode(), precision_of(clip.device, options.precision):
            embedding = clip.encode_image(images.pixels).embedding.float()
        rows = normalize(embedding, dim=-1).cpu()
        finite = rows.isfinite().all(dim=1)
        readable = [(names[number], ok) for number, ok in zip(images.numbers, finite.tolist())]
        reasons |= {name: "CLIP's feature is not finite" for name, ok in readable if not ok}
        journal.add([name for name, ok in readable if ok], files.states, rows[finite].numpy())
    if reasons:
        journal.add_broken(reasons, files.states)


def _pixels(
    names: list[str], files: Files, preparation: PicturePreparation, thumbnails: Thumbnails | None, number: int
) -> torch.Tensor:
    """[3, S, S], bytes; keeps a thumbnail too, since the picture is decoded anyway. Raises BrokenImage."""
    name = names[number]
    image = preparation.read(files.path(name))
    if thumbnails is not None:
        thumbnails.write(name, files.states[name], thumbnail(as_image(image)))
    return as_bytes(preparation.crop(image))
