"""Mappers against the golden tensors and against the plain computation, values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from conftest import metadata, relative
from context_i2w.checkpoints.published import published_name
from context_i2w.model.clip import CLIPSizes, ImageFeatures
from context_i2w.model.extensions import find_class
from context_i2w.model.mappers import ContextI2W, ContextI2WOptions, ExtractorBlock, Pic2Word
from context_i2w.model.options import MAPPERS
from published_way import plain_attention, plain_mapper

VIT_L = CLIPSizes(224, 257, 1024, 768, 768, 77, 49408)
ODD = CLIPSizes(32, 10, 48, 24, 40, 77, 49408)  # joint and text width differ


def test_output_and_gradients_equal_the_golden_ones(golden_mapper, golden_mapper_tensors):
    golden = golden_mapper_tensors
    condition = golden["input.c"].clone().requires_grad_()
    tokens = golden["input.x"].clone().requires_grad_()
    word = golden_mapper(condition, ImageFeatures(torch.zeros(5, 64), tokens))
    assert relative(word, golden["output"]) < 5e-6
    (word * golden["probe"]).sum().backward()
    assert relative(condition.grad, golden["grad_input.c"]) < 1e-5
    assert relative(tokens.grad, golden["grad_input.x"]) < 1e-5
    grads = {published_name(name): p.grad for name, p in golden_mapper.named_parameters()}
    norms = dict(zip(metadata("mapper_small")["grad_norm_order"], golden["grad_norms"].tolist(), strict=True))
    assert grads.keys() == norms.keys()
    for name, grad in grads.items():
        assert float(grad.double().norm()) == pytest.approx(norms[name], rel=1e-5), name
        if f"grad.{name}" in golden:
            assert relative(grad, golden[f"grad.{name}"]) < 1e-5, name


def test_stages_equal_the_golden_ones(golden_mapper, golden_mapper_tensors):
    golden = golden_mapper_tensors
    image = ImageFeatures(torch.zeros(5, 64), golden["input.x"])
    rotated = golden_mapper.rotate(golden["input.c"], image)
    assert relative(rotated, golden["mid.rotated_tokens"]) < 1e-4
    queries = golden_mapper.extractor(rotated[:, 1:])
    assert relative(queries, golden["mid.queries_out"]) < 1e-4
    assert relative(golden_mapper.global_head(rotated[:, 0]), golden["mid.global_word"]) < 1e-4
    assert relative(golden_mapper.local_head(queries.mean(1)), golden["mid.local_word"]) < 1e-4


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    queries=st.integers(1, 5),
    patches=st.integers(1, 20),
    heads=st.integers(1, 4),
    head_width=st.sampled_from([4, 16]),
    width=st.sampled_from([8, 48]),
    seed=st.integers(0, 99),
)
def test_absorbed_attention_equals_the_plain_one(batch, queries, patches, heads, head_width, width, seed):
    torch.manual_seed(seed)
    block = ExtractorBlock(width, heads, head_width, feed_forward=2).double()
    for parameter in block.parameters():  # norms that do something
        parameter.data += 0.3 * torch.randn_like(parameter)
    q = torch.randn(batch, queries, width, dtype=torch.double, requires_grad=True)
    x = torch.randn(batch, patches, width, dtype=torch.double, requires_grad=True)
    grads = []
    for fast in (True, False):
        block.zero_grad()
        q.grad = x.grad = None
        standardised = F.layer_norm(x, (width,), eps=1e-5)
        out = block._attend(block.query_norm(q), standardised) if fast else plain_attention(block, q, x)
        out.square().sum().backward()
        grads.append([out.detach(), q.grad, x.grad] + [p.grad for p in block.parameters() if p.grad is not None])
    for fast, plain in zip(*grads, strict=True):
        assert torch.allclose(fast, plain, rtol=1e-8, atol=1e-9 * float(plain.abs().max() + 1))


def test_fast_mapper_equals_the_plain_one_in_float32():
    torch.manual_seed(0)
    mapper = ContextI2W(ODD, ContextI2WOptions(gate=0.5, hidden=32)).eval()
    condition, image = torch.randn(4, 24), ImageFeatures(torch.randn(4, 24), torch.randn(4, 10, 48))
    grads = []
    for compute in (mapper, lambda c, i: plain_mapper(mapper, c, i)):
        mapper.zero_grad()
        word = compute(condition, image)
        word.square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in mapper.named_parameters()} | {"word": word.detach()})
    assert relative(grads[0].pop("word"), grads[1].pop("word")) < 5e-6
    for name, grad in grads[0].items():
        assert relative(grad, grads[1][name]) < 1e-5, name


@pytest.mark.parametrize("name", MAPPERS)
def test_every_mapper_fits_a_clip_whose_widths_differ(name):
    mapper = find_class(name, MAPPERS, "mapper")(ODD)
    image = ImageFeatures(torch.randn(2, 24), torch.randn(2, 10, 48) if mapper.uses_tokens else None)
    assert mapper(torch.randn(2, 24) if mapper.uses_condition else None, image).shape == (2, 40)


def test_parameter_counts_are_the_published_ones():
    assert round(sum(p.numel() for p in ContextI2W(VIT_L).parameters()) / 1e6, 2) == 68.47
    assert round(sum(p.numel() for p in Pic2Word(VIT_L).parameters()) / 1e6, 2) == 1.05


def test_gate_starts_closed_and_only_then_hides_the_local_branch():
    torch.manual_seed(0)
    mapper = ContextI2W(ODD).eval()
    condition, tokens = torch.randn(1, 24), torch.randn(1, 10, 48)
    moved = tokens.clone()
    moved[:, 1:] = torch.randn(1, 9, 48)
    embedding = torch.zeros(1, 24)
    assert torch.equal(
        mapper(condition, ImageFeatures(embedding, tokens)),
        mapper(condition, ImageFeatures(embedding, moved)),
    )
    mapper.gate.data.fill_(0.5)
    assert not torch.equal(
        mapper(condition, ImageFeatures(embedding, tokens)),
        mapper(condition, ImageFeatures(embedding, moved)),
    )


def test_without_condition_the_description_is_not_seen():
    torch.manual_seed(0)
    mapper = ContextI2W(ODD, ContextI2WOptions(condition=False, gate=0.5)).eval()
    image = ImageFeatures(torch.randn(1, 24), torch.randn(1, 10, 48))
    assert torch.equal(mapper(torch.randn(1, 24), image), mapper(None, image))


def test_dropout_option_is_used():
    image = ImageFeatures(torch.randn(1, 24), torch.randn(1, 10, 48))
    for dropout in (0.0, 0.5):
        mapper = Pic2Word(ODD, Pic2Word.Options(dropout=dropout)).train()
        assert torch.equal(mapper(None, image), mapper(None, image)) == (dropout == 0)


EXTRACTOR = {"extractor", "local_head", "gate"}
ABLATIONS = {  # option: (components that are gone, inputs that the word does not depend on)
    "condition=False": ({"condition": False}, set(), {"condition"}),
    "rotation=False": ({"rotation": False}, {"selector.direction", "selector.magnitude"}, set()),
    "local_branch=False": ({"local_branch": False}, EXTRACTOR, {"patches"}),
    "global_branch=False": ({"global_branch": False}, {"global_head", "gate"}, {"class token"}),
    "gate=1": ({"gate": 1.0}, set(), set()),
    "dropout=0": ({"dropout": 0.0}, set(), set()),
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_removes_what_it_names_and_nothing_else(name):
    options, gone, unused = ABLATIONS[name]
    full = {name: p.shape for name, p in ContextI2W(ODD).named_parameters()}
    mapper = ContextI2W(ODD, ContextI2WOptions(**{"gate": 0.5} | options)).eval()
    left = {name: p.shape for name, p in mapper.named_parameters()}
    assert left == {name: shape for name, shape in full.items() if not _begins(name, gone)}
    assert used_inputs(mapper) == {"condition", "class token", "patches"} - unused


@pytest.mark.parametrize("count", [1, 2, 8, 16])
def test_queries_and_depth_change_only_their_own_size(count):
    full = {name: p.shape for name, p in ContextI2W(ODD).named_parameters()}
    more = {name: p.shape for name, p in ContextI2W(ODD, ContextI2WOptions(queries=count)).named_parameters()}
    assert more == full | {"extractor.queries": (count, 48)}
    deep = {name: p.shape for name, p in ContextI2W(ODD, ContextI2WOptions(depth=count)).named_parameters()}
    blocks = {int(name.split(".")[2]) for name in deep if name.startswith("extractor.blocks.")}
    assert blocks == set(range(count))
    assert {n: s for n, s in deep.items() if ".blocks." not in n} == {
        n: s for n, s in full.items() if ".blocks." not in n
    }


def test_gate_and_dropout_change_no_weight_but_their_own():
    weights = []
    for options in (ContextI2WOptions(), ContextI2WOptions(gate=1.0), ContextI2WOptions(dropout=0.0)):
        torch.manual_seed(0)
        weights.append(ContextI2W(ODD, options).state_dict())
    full, gate, dropout = weights
    assert [name for name in full if not torch.equal(full[name], gate[name])] == ["gate"]
    assert all(torch.equal(full[name], dropout[name]) for name in full)


def test_a_mapper_without_both_branches_is_refused():
    with pytest.raises(ValueError, match="both False"):
        ContextI2WOptions(local_branch=False, global_branch=False)


def used_inputs(mapper) -> set[str]:
    """Inputs that the word changes with."""
    torch.manual_seed(1)
    condition = torch.randn(2, 24, requires_grad=True)
    class_token, patches = torch.randn(2, 1, 48, requires_grad=True), torch.randn(2, 9, 48, requires_grad=True)
    image = ImageFeatures(torch.randn(2, 24), torch.cat([class_token, patches], dim=1))
    mapper(condition, image).square().sum().backward()
    inputs = {"condition": condition, "class token": class_token, "patches": patches}
    return {name for name, tensor in inputs.items() if tensor.grad is not None and bool(tensor.grad.any())}


def _begins(name: str, prefixes: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)
