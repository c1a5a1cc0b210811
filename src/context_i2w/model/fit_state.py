"""Puts tensors of a file into a network: strictly, with errors that name them, or as tolerantly as open_clip does."""

import sys
from collections.abc import Callable

import torch
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

from context_i2w.errors import UserError
from context_i2w.model.tensor_files import State


def load_state(module: torch.nn.Module, state: State, name: str, shown: Callable[[str], str] = str) -> None:
    """Strict loading; a mismatch is one UserError that names tensors as the file does (`shown`) and both shapes.

    So are weights that are not finite, but for whole words that a table lacks (see `FrozenCLIP`).
    """
    own = module.state_dict()
    faults = [f"{shown(key)}: missing" for key in own.keys() - state.keys()]
    faults += [f"{shown(key)}: unexpected" for key in state.keys() - own.keys()]
    for key in own.keys() & state.keys():
        if own[key].shape != state[key].shape:
            found, wanted = tuple(state[key].shape), tuple(own[key].shape)
            faults.append(f"{shown(key)}: {found} in the file, {wanted} in the model")
    if faults:
        listed = "; ".join(fault[:200] for fault in sorted(faults)[:6]) + ("; …" if len(faults) > 6 else "")
        raise UserError(f"{name}: {len(faults)} tensors do not fit: {listed}")
    for key, tensor in state.items():
        if not key.endswith("token_embedding.weight") and not tensor.isfinite().all():
            raise UserError(f"{name}: {shown(key)} holds NaN or infinite values; the file is damaged, take another")
    module.load_state_dict(state)


def as_open_clip(state: State, network: torch.nn.Module, name: str) -> State:
    """The tensors as open_clip takes them: what does not count left out, position tables resized, scalars reshaped."""
    own = network.state_dict()
    ignored = ("logit_bias", "attn_mask", "position_ids")
    state = {k: v for k, v in without_archive_scalars(state).items() if k in own or not k.endswith(ignored)}
    if "positional_embedding" in state and "positional_embedding" not in own:
        state = convert_to_custom_text_state_dict(state)
    if "logit_bias" in own:
        state.setdefault("logit_bias", own["logit_bias"])
    for key in {"logit_scale", "logit_bias"} & state.keys() & own.keys():
        if state[key].numel() == 1:
            state[key] = state[key].reshape(own[key].shape)
    for key in [key for key in own.keys() & state.keys() if key.endswith("positional_embedding")]:
        old, new, visual = state[key].shape, own[key].shape, "visual." in key
        if old == new or len(old) != 2 or old[1] != new[1] or old[0] < 2:
            continue
        if visual and round((old[0] - 1) ** 0.5) ** 2 != old[0] - 1:
            continue  # no square grid of patches
        state[key] = state[key].float()
        (resize_pos_embed if visual else resize_text_pos_embed)(state, network)
        print(f"{name}: {key} resized from {old[0]} to {new[0]} positions, as open_clip does", file=sys.stderr)
    return state


def without_archive_scalars(state: State) -> State:
    """OpenAI's archives list three numbers among their tensors."""
    return {k: v for k, v in state.items() if k not in ("input_resolution", "context_length", "vocab_size")}
