"""The mappers by name, and their options. Imports nothing that takes time: the command line reads it."""

from dataclasses import dataclass

from context_i2w.command_line import Options, option

MAPPERS = {
    "context-i2w": "context_i2w.model.mappers:ContextI2W",
    "pic2word": "context_i2w.model.mappers:Pic2Word",
    "phi": "context_i2w.model.mappers:Phi",
}


@dataclass(frozen=True)
class ContextI2WOptions(Options):
    """Sizes and ablations of Context-I2W; the defaults are the paper's."""

    queries: int = option(4, "learnable queries of the Visual Target Extractor", at_least=1)
    depth: int = option(6, "its layers", at_least=0)
    heads: int = option(8, "its attention heads", at_least=1)
    head_width: int = option(64, "their width", at_least=1)
    feed_forward: int = option(4, "its feed-forward width, times the vision width", at_least=1)
    hidden: int = option(512, "width of the hidden layers that make the word", at_least=1)
    head_layers: int = option(2, "number of those layers", at_least=0)
    dropout: float = option(0.1, "in those layers", at_least=0, at_most=1)
    gate: float = option(0.0, "start of the local branch's gate")
    condition: bool = option(True, "False: a constant condition, so that the description is not seen (no context)")
    rotation: bool = option(True, "False: the Intent View Selector only scales the tokens")
    local_branch: bool = option(True, "False: no Visual Target Extractor, the class token alone")
    global_branch: bool = option(True, "False: the Visual Target Extractor alone, without a gate")

    def __post_init__(self):
        super().__post_init__()
        if not (self.local_branch or self.global_branch):
            raise ValueError("local_branch and global_branch are both False: nothing is left to make a word of")


@dataclass(frozen=True)
class Pic2WordOptions(Options):
    """Sizes of Pic2Word; the defaults are its paper's."""

    hidden: int = option(512, "width of the hidden layers", at_least=1)
    head_layers: int = option(2, "number of hidden layers", at_least=0)
    dropout: float = option(0.1, "in the hidden layers", at_least=0, at_most=1)


@dataclass(frozen=True)
class PhiOptions(Options):
    """Sizes of φ; the defaults are SEARLE's and LinCIR's."""

    hidden: int = option(4, "width of the hidden layers, times the embedding's", at_least=1)
    dropout: float = option(0.5, "in the hidden layers", at_least=0, at_most=1)


MAPPER_OPTIONS = {"context-i2w": ContextI2WOptions, "pic2word": Pic2WordOptions, "phi": PhiOptions}
