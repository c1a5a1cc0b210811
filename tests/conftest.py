"""Golden tensors and models shared by the tests."""

import json
import multiprocessing
import os
import shutil
from pathlib import Path

# Two test processes share the cores; threads that wait for one another would cost far more than they give. Before
# torch is imported, and for the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import PIL
import pytest
import torch
from hypothesis import settings
from safetensors import safe_open
from safetensors.torch import load_file

from context_i2w import distributed
from context_i2w.checkpoints.published import ours_from_published, parse_published
from context_i2w.files import atomic_folder, locked
from context_i2w.model.clip_weights import clip_from_openai_state, load_state
from context_i2w.model.mappers import ContextI2W
from context_i2w.toy_world import Sizes, make_toy_world

GOLDEN = Path(__file__).parent / "golden"
GPU = torch.cuda.is_available()
# Of the golden pictures some are tall. Pillow 13 resizes those vertically first, as it did when the numbers were made.
PILLOW_13 = int(PIL.__version__.split(".")[0]) >= 13
pillow_13 = pytest.mark.skipif(not PILLOW_13, reason="needs Pillow 13")

torch.set_num_threads(1)
# A process started from one that has imported everything begins at once; from nothing it takes ten seconds.
multiprocessing.set_forkserver_preload(["context_i2w.training.run", "torch.utils.tensorboard"])
distributed.START = "forkserver"
settings.register_profile("quick", deadline=None)  # a shared machine is slow at times
settings.load_profile("quick")
settings.register_profile("fuzz", max_examples=2000, deadline=None)  # --hypothesis-profile fuzz


def metadata(name: str) -> dict:
    with safe_open(GOLDEN / f"{name}.safetensors", "pt") as file:
        return {key: json.loads(value) if value[:1] in "[{" else value for key, value in file.metadata().items()}


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest absolute error over the largest absolute value."""
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach())


@pytest.fixture(
    scope="session", params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="needs a GPU"))]
)
def device(request) -> torch.device:
    """Every device of this machine in turn."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def golden_clip_state():
    return {name: tensor.float() for name, tensor in load_file(GOLDEN / "clip_small_weights.safetensors").items()}


@pytest.fixture(scope="session")
def golden_clip(golden_clip_state):
    return clip_from_openai_state(golden_clip_state, "golden")


@pytest.fixture(scope="session")
def golden_mapper_tensors():
    return load_file(GOLDEN / "mapper_small.safetensors")


@pytest.fixture(scope="session")
def golden_mapper_state(golden_mapper_tensors):
    """The mapper's tensors under their published names."""
    named = golden_mapper_tensors.items()
    return {name.removeprefix("param."): tensor.float() for name, tensor in named if name.startswith("param.")}


@pytest.fixture(scope="session")
def clip_there(golden_clip_state, device):
    """The golden CLIP on each device in turn."""
    return clip_from_openai_state(golden_clip_state, "golden").to(device)


@pytest.fixture
def golden_mapper(golden_clip, golden_mapper_state):
    """A fresh golden mapper in evaluation mode."""
    options = parse_published({"state_dict_img2text": golden_mapper_state}, "golden").options
    mapper = ContextI2W(golden_clip.sizes, options)
    load_state(mapper, ours_from_published(golden_mapper_state, list(mapper.state_dict())), "golden")
    return mapper.eval()


@pytest.fixture(scope="session")
def golden_step():
    return load_file(GOLDEN / "step_small.safetensors")


@pytest.fixture(scope="session")
def for_all(tmp_path_factory, worker_id) -> Path:
    """A folder that all test processes share."""
    session = tmp_path_factory.getbasetemp()
    return session if worker_id == "master" else session.parent


@pytest.fixture(scope="session")
def golden_data(for_all) -> Path:
    """The data root of the small benchmarks, unpacked once for all test processes; read only."""
    folder = for_all / "golden_data"
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            with atomic_folder(folder) as unpacked:
                shutil.unpack_archive(GOLDEN / "benchmarks.zip", unpacked)
    return folder


@pytest.fixture(scope="session")
def mini_world(for_all) -> Path:
    """A miniature toy world, drawn once for all test processes; read only."""
    with locked(for_all / "toy.lock"):
        return make_toy_world(for_all / "toy", sizes=Sizes.mini(), workers=1)


@pytest.fixture(scope="module")
def retriever(golden_clip):
    """A small Context-I2W over the golden CLIP, for the tests of the search."""
    from tests.search.test_retriever import SMALL

    from context_i2w import Retriever

    torch.manual_seed(0)
    return Retriever(golden_clip, ContextI2W(golden_clip.sizes, SMALL))
