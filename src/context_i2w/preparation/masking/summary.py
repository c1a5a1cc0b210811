"""What masking did: counts, the commonest masked phrases and some samples; sums of parts equal the whole."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from context_i2w.preparation.masking.rules import Masked

SAMPLES = 20
SUMMARY = {"captions": int, "masked": int, "without_caption": int, "phrases": {str: int}, "samples": [[str]]}


@dataclass
class Summary:
    """Counts over captions. `samples` are the captions of smallest hash, so they do not depend on the parts."""

    captions: int = 0
    masked: int = 0
    without_caption: int = 0  # samples of shards in which no caption was found
    phrases: Counter = field(default_factory=Counter)
    samples: list[tuple[str, str, str]] = field(default_factory=list)  # (hash, caption, masked caption)

    @classmethod
    def of(cls, captions: Sequence[str], results: Sequence[Masked], without_caption: int = 0) -> "Summary":
        hashes = [hashlib.sha256(caption.encode("utf-8", "replace")).hexdigest() for caption in captions]
        masked = sum(bool(result.phrases) for result in results)
        phrases = Counter(phrase.lower() for result in results for phrase in result.phrases)
        samples = {*zip(hashes, captions, (result.caption for result in results))}
        return cls(len(captions), masked, without_caption, phrases, heapq.nsmallest(SAMPLES, samples))

    def merge(self, other: "Summary") -> None:
        self.captions += other.captions
        self.masked += other.masked
        self.without_caption += other.without_caption
        self.phrases += other.phrases
        self.samples = heapq.nsmallest(SAMPLES, {*self.samples, *other.samples})

    def as_json(self) -> dict:
        return {**vars(self), "phrases": dict(self.phrases)}

    @classmethod
    def from_json(cls, content: dict) -> "Summary":
        """content: of the shape SUMMARY."""
        samples = [(*sample, "", "", "")[:3] for sample in content["samples"]]
        known = {name: content[name] for name in SUMMARY}
        return cls(**{**known, "phrases": Counter(content["phrases"]), "samples": samples})

    def text(self, most: int = 20) -> str:
        """For people: the masked share, the commonest phrases, the samples."""
        whole = self.captions - self.masked
        share = 100 * self.masked / max(self.captions, 1)
        counts = f"{self.captions:,} captions: {self.masked:,} masked ({share:.1f} %)"
        lines = [f"{counts}, {whole:,} without an object kept whole"]
        if self.without_caption:
            lines.append(f"{self.without_caption:,} samples without a readable caption were left as they are")
        lines.append("most frequent masked phrases:")
        ranked = sorted(self.phrases.items(), key=lambda item: (-item[1], item[0]))[:most]
        lines += [f"  {count:>9,}  {phrase}" for phrase, count in ranked]
        lines.append("samples:")
        for _, caption, masked in self.samples:
            lines += [f"  {caption}", f"    -> {masked}"]
        return "\n".join(lines)
