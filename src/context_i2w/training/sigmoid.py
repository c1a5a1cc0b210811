"""The sigmoid objective: every text and image of the batch judged as a pair or not, each by itself."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from context_i2w.command_line import Options, option
from context_i2w.model.clip import FrozenCLIP
from context_i2w.training.objective import Contrastive


@dataclass(frozen=True)
class SigmoidOptions(Options):
    """Start values are SigLIP's."""

    temperature: float = option(0.1, "τ at the start", above=0)
    bias: float = option(-10.0, "b at the start")
    learned: bool = option(True, "False: both stay as they are")


class Sigmoid(Contrastive):
    """The published step with another loss (arXiv 2303.15343)."""

    name, title, paper = "sigmoid", "sigmoid", "https://arxiv.org/abs/2303.15343"
    Options = SigmoidOptions

    def __init__(self, clip: FrozenCLIP, options: Any = None, training_text: str = "published"):
        super().__init__(clip, options, training_text)
        self.loss = SigmoidLoss(self.options.temperature, self.options.bias, self.options.learned)


class SigmoidLoss(nn.Module):
    """Σ −log σ(y (s/τ + b)) / G over all G² pairs of images and texts [G, E], s their cosine, y = 1 for the pairs that
    belong together and −1 for others; in float32."""

    def __init__(self, temperature: float, bias: float, learned: bool = True):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(-math.log(temperature)), requires_grad=learned)
        self.logit_bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learned)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        cosine = F.normalize(images.float(), dim=-1) @ F.normalize(texts.float(), dim=-1).T
        logits = self.logit_scale.exp() * cosine + self.logit_bias
        belong = 2 * torch.eye(len(logits), device=logits.device) - 1
        return -F.logsigmoid(belong * logits).sum() / len(logits)
