"""Methods of a query: each against its formula; names and weights that are refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import normalize

from context_i2w.errors import UserError
from context_i2w.model.queries import DEFAULTS, RECOMMENDED, parse_method

NAMES = ("image", "text", "composed", "alone", "alone:plain")
V, S, C, T, P = (normalize(torch.randn(3, 5, generator=torch.Generator().manual_seed(n)), dim=-1) for n in range(5))
VECTORS = dict(zip(NAMES, (V, S, C, T, P), strict=True))
weights = st.floats(0, 1)


def norm(x):
    return x / x.norm(dim=-1, keepdim=True)


def slerp(image, text, a):
    """The paper's formula in float64, with vector after vector."""
    rows = []
    for v, s in zip(image.double(), text.double()):
        theta = math.acos(max(-1.0, min(1.0, float(v @ s))))
        rows.append(math.sin((1 - a) * theta) / math.sin(theta) * v + math.sin(a * theta) / math.sin(theta) * s)
    return torch.stack(rows).float()


def close(found, wanted):
    return torch.allclose(found, wanted, atol=1e-5)


def test_the_vectors_themselves_are_untouched():
    assert all(torch.equal(parse_method(name)(VECTORS), VECTORS[name]) for name in ("image", "text", "composed"))
    assert torch.equal(parse_method("image+text")(VECTORS), normalize(V + S, dim=-1))


@given(w=weights, a=weights)
def test_sums_and_slerp(w, a):
    assert close(parse_method(f"anchored:{w}")(VECTORS), norm((1 - w) * C + w * V))
    assert close(parse_method(f"blended:{w}")(VECTORS), norm((1 - w) * C + w * norm(V + S)))
    assert close(parse_method(f"slerp:{a}")(VECTORS), slerp(V, S, a))
    assert close(parse_method(f"blended:{w}:{a}")(VECTORS), norm((1 - w) * C + w * slerp(V, S, a)))


@given(beta=weights, of_image=st.floats(0, 3), of_text=st.floats(0, 3))
def test_pdv_as_published_with_either_reading(beta, of_image, of_text):
    for end, alone in (("", T), (":plain", P)):
        delta = C - alone
        wanted = norm((1 - beta) * (V + of_image * delta) + beta * (alone + of_text * delta))
        found = parse_method(f"pdv:{beta}:{of_image}:{of_text}{end}")(VECTORS)
        assert torch.allclose(found, wanted, atol=1e-4)


def test_slerp_of_vectors_that_coincide_is_the_straight_mix():
    nearly = normalize(V + 1e-6, dim=-1)
    for text in (V, nearly):
        assert close(parse_method("slerp:0.3")({"image": V, "text": text}), V)


def test_what_each_needs():
    needs = {
        "image+text": {"image", "text"},
        "image*text": {"image", "text"},
        "slerp:0.8": {"image", "text"},
        "composed": {"composed"},
        "anchored:0.1": {"composed", "image"},
        "blended:0.5:0.7": {"composed", "image", "text"},
        "pdv:0.8:1:1": {"composed", "image", "alone"},
        "pdv:0.8:1:1:plain": {"composed", "image", "alone:plain"},
    }
    for name, wanted in needs.items():
        method = parse_method(name)
        assert (method.name, method.needs) == (name, wanted)
        assert method.uses_mapper == ("composed" in wanted)


def test_a_product_is_not_a_vector():
    with pytest.raises(UserError, match="is not one vector"):
        parse_method("image*text")({"image": V, "text": S})


def test_bare_names_have_one_fixed_weight_and_keep_their_name():
    for name, meant in DEFAULTS.items():
        assert parse_method(name).name == name
        assert torch.equal(parse_method(name)(VECTORS), parse_method(meant)(VECTORS))
    assert RECOMMENDED in DEFAULTS.values()


@pytest.mark.parametrize(
    "name",
    [
        "", "Image", "sum", "anchored:", "anchored:1.01", "anchored:-0.1", "anchored:nan", "anchored:0.1:0.2",
        "image:1", "blended:0.1:2", "blended:1:2:3", "pdv:0.8", "pdv:1.1:1:1", "pdv:0.8:inf:1", "pdv:plain",
        "slerp:x", "slerp:0:1",
    ],
)  # fmt: skip
def test_unknown_names_and_weights_out_of_range(name):
    with pytest.raises(UserError) as caught:
        parse_method(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)
