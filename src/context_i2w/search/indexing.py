"""Brings a store up to date with its files: only new and changed images pass the vision tower."""

import sys

import torch
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from context_i2w.evaluation.features import EncodingOptions, precision_of
from context_i2w.model.clip import FrozenCLIP
from context_i2w.model.images import BrokenImage, as_bytes, as_image
from context_i2w.search.files import Files
from context_i2w.search.journal import Journal
from context_i2w.search.pictures import PicturePreparation
from context_i2w.search.store import Store
from context_i2w.search.thumbnails import Thumbnails, thumbnail

FEW = 32  # so few images are read faster than reading processes start


def bring_up_to_date(
    store: Store, files: Files, clip: FrozenCLIP, options: EncodingOptions, thumbnails: Thumbnails | None = None
) -> None:
    """Encodes what is missing, drops what has vanished; can be interrupted and goes on where it was.

    Files that can't be read are kept in `store.contents.broken` and tried again when they change. thumbnails: where
    the small pictures of what is encoded go; None: nowhere.
    """
    if store.is_complete(files.states):
        return
    with store.update() as journal:
        missing = store.missing(files.states, journal)
        if missing:
            _encode(missing, journal, files, clip, options, thumbnails)
        if store.finish(files.states, journal) and thumbnails is not None:
            thumbnails.keep_only(files.states)


def report_broken(store: Store, files: Files) -> None:
    """One line on stderr for files that were left out, one for kinds of pictures that nothing here reads."""
    root = files.root
    if files.unread:
        print(f"{root}: pictures of kinds that can't be read are left out: {files.unread_kinds}", file=sys.stderr)
    broken = store.contents.broken
    if broken:
        shown = ", ".join(f"{name} ({reason})" for name, (_, reason) in list(broken.items())[:3])
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        print(f"{root}: {len(broken)} files left out, they can't be read as images: {shown}{more}", file=sys.stderr)


def _encode(
    names: list[str],
    journal: Journal,
    files: Files,
    clip: FrozenCLIP,
    options: EncodingOptions,
    thumbnails: Thumbnails | None,
) -> None:
    preparation = PicturePreparation(*clip.transform)
    loader = DataLoader(
        _Pictures(names, files, preparation, thumbnails),
        batch_size=options.batch_size,
        num_workers=options.worker_count() if len(names) > FEW else 0,
        collate_fn=list,
    )
    hidden = None if len(names) > FEW else True
    with tqdm(total=len(names), desc=f"indexing {files.root.name}", unit="image", disable=hidden) as bar:
        for items in loader:
            _encode_batch(items, journal, files, clip, options)
            bar.update(len(items))


def _encode_batch(items: list, journal: Journal, files: Files, clip: FrozenCLIP, options: EncodingOptions) -> None:
    reasons = {name: found.reason for name, found in items if isinstance(found, BrokenImage)}
    readable = [(name, found) for name, found in items if not isinstance(found, BrokenImage)]
    if readable:
        with torch.inference_mode(), precision_of(clip.device, options.precision):
            embedding = clip.encode_image(torch.stack([pixels for _, pixels in readable])).embedding.float()
        rows = normalize(embedding, dim=-1).cpu()
        finite = rows.isfinite().all(dim=1)
        reasons |= {name: "CLIP's feature is not finite" for (name, _), ok in zip(readable, finite) if not ok}
        journal.add([name for (name, _), ok in zip(readable, finite) if ok], files.states, rows[finite].numpy())
    if reasons:
        journal.add_broken(reasons, files.states)


class _Pictures(Dataset):
    """(name, pixels), or (name, BrokenImage); keeps a thumbnail of each, since the picture is decoded anyway."""

    def __init__(self, names: list[str], files: Files, preparation: PicturePreparation, thumbnails: Thumbnails | None):
        self.names = names
        self.files = files
        self.preparation = preparation
        self.thumbnails = thumbnails

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[str, torch.Tensor | BrokenImage]:
        name = self.names[number]
        try:
            image = self.preparation.read(self.files.path(name))
            if self.thumbnails is not None:
                self.thumbnails.write(name, self.files.states[name], thumbnail(as_image(image)))
            return name, as_bytes(self.preparation.crop(image))
        except BrokenImage as error:
            return name, error
