"""What a network is trained on: plain images, morphed images, or a frozen layer's features."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mole.augmentation import flip_some
from utils.devices import Context, any_process, progress, say, wait_for_all
from utils.launch import read_launch
from utils.memory import IMAGES_AT_ONCE, free_memory, require_memory


def evenly_spaced(count: int, most: int) -> Tensor:
    """Up to `most` of `count` indices (int64), from end to end: images may be sorted by class."""
    return torch.linspace(0, count - 1, min(count, most)).long()


def take_rows(rows: Tensor, index: Tensor | slice) -> Tensor:
    """rows[index], also of uint16, which PyTorch 2.9 cannot index: their bits are taken as int16.
    """
    if rows.dtype != torch.uint16:
        return rows[index]
    return rows.view(torch.int16)[index].view(torch.uint16)


@dataclass(frozen=True)
class Source:
    """Images as they are stored, and how a batch of them is prepared on a device.

    rows (N, …) may lie in memory, on a device, or on the disk: batches are read by index.
    """

    rows: Tensor
    prepare: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor | slice, device: torch.device) -> Tensor:
        if isinstance(index, Tensor):
            index = index.to(self.rows.device)
        return self.prepare(take_rows(self.rows, index).to(device, non_blocking=True))

    def moved(self, device: torch.device) -> "Source":
        """On the device where it fits twice; otherwise its batches travel."""
        if device.type == "cpu" or 2 * self.rows.nbytes > free_memory(device):
            return self
        return Source(self.rows.to(device), self.prepare)


class PreparedImages:
    """Prepared images of one source: `take(index, flipped)` gives (B, α, m, m) float32."""

    def __init__(self, source: Source, labels: Tensor, context: Context):
        self.source = source.moved(context.device)
        self.labels = labels.to(context.device)
        self.device = context.device

    def __len__(self) -> int:
        return len(self.source)

    def take(self, index: Tensor | slice, flipped: Tensor | None = None) -> Tensor:
        images = self.source.take(index, self.device)
        return images if flipped is None else flip_some(images, flipped.to(self.device))


@dataclass(frozen=True)
class FrozenLayer:
    """A first layer that is not trained: a source's images to features (B, β, n, n) float32.

    `mirrored` gives the features of the mirrored layer, which flips need.
    """

    layer: Callable[[Tensor], Tensor]
    mirrored: Callable[[Tensor], Tensor] | None = None

    def to(self, device: torch.device) -> "FrozenLayer":
        def moved(layer):
            return layer.to(device).eval() if isinstance(layer, nn.Module) else layer
        return FrozenLayer(moved(self.layer), moved(self.mirrored))

    @torch.no_grad()
    def features(self, images: Tensor, flipped: Tensor | None) -> Tensor:
        """Of the images, those marked in `flipped` (B) mirrored left to right first."""
        if flipped is None or not bool(flipped.any()):
            return self.layer(images)
        if bool(flipped.all()):
            return self.mirrored(images).flip(3)
        as_they_are = self.layer(images[~flipped])
        features = as_they_are.new_empty(len(images), *as_they_are.shape[1:])
        features[~flipped] = as_they_are
        # The mirrored layer's features, mirrored, are the layer's features of the mirrored images.
        features[flipped] = self.mirrored(images[flipped]).flip(3)
        return features


class Features:
    """A frozen first layer's features of one or several sources, computed batch by batch."""

    def __init__(self, parts: list[tuple[FrozenLayer, Source]], labels: list[Tensor],
                 context: Context):
        self.parts = [(layer.to(context.device), source.moved(context.device))
                      for layer, source in parts]
        self.labels = torch.cat([part.to(context.device) for part in labels])
        self.context = context

    def __len__(self) -> int:
        return sum(len(source) for _, source in self.parts)

    def take(self, index: Tensor | slice, flipped: Tensor | None = None) -> Tensor:
        """Features (B, β, n, n) in the context's dtype, channels-last."""
        if len(self.parts) == 1:
            return self._of_part(0, index, flipped)
        if isinstance(index, slice):
            index = torch.arange(len(self))[index]
        result, start = None, 0
        for number, (_, source) in enumerate(self.parts):
            places = ((index >= start) & (index < start + len(source))).nonzero()[:, 0]
            if len(places):
                some = None if flipped is None else flipped[places.to(flipped.device)]
                part = self._of_part(number, index[places] - start, some)
                if result is None:
                    result = torch.empty(len(index), *part.shape[1:], dtype=part.dtype,
                                         device=part.device, memory_format=torch.channels_last)
                result[places.to(part.device)] = part
            start += len(source)
        return result

    def _of_part(self, number: int, index: Tensor | slice, flipped: Tensor | None) -> Tensor:
        layer, source = self.parts[number]
        images = source.take(index, self.context.device)
        if flipped is not None:
            flipped = flipped.to(self.context.device)
        features = layer.features(images, flipped).to(self.context.dtype)
        return features.contiguous(memory_format=torch.channels_last)

    def kept(self, mirrored: bool) -> "KeptFeatures":
        """The same features, computed once; `mirrored`: those of mirrored images too."""
        plain = self._compute_all(flipped=False)
        of_mirrored = self._compute_all(flipped=True) if mirrored else None
        return KeptFeatures(plain, of_mirrored, self.labels)

    def _compute_all(self, flipped: bool) -> Tensor:
        """Features (N, β, n, n) of all images, or of all of them mirrored left to right."""
        shape = self.take(slice(0, 1)).shape[1:]
        kept = torch.empty((len(self), *shape), dtype=self.context.dtype,
                           device=self.context.device, memory_format=torch.channels_last)
        starts = range(0, len(self), IMAGES_AT_ONCE)
        for first in progress(starts, "first layer, once"):
            block = slice(first, min(first + IMAGES_AT_ONCE, len(self)))
            all_alike = torch.full((block.stop - first,), flipped)
            kept[block] = self.take(block, all_alike)
        return kept


class KeptFeatures:
    """Features (N, β, n, n) that were computed once, and those of the mirrored images if any."""

    def __init__(self, features: Tensor, mirrored: Tensor | None, labels: Tensor):
        self.features = features
        self.mirrored = mirrored
        self.labels = labels

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: Tensor | slice, flipped: Tensor | None = None) -> Tensor:
        """A copy: an activation that works in place must not change what is kept.

        A slice, as for evaluation, is never flipped.
        """
        if isinstance(index, slice):
            return self.features[index].clone()
        index = index.to(self.features.device)
        taken = self.features[index]
        if flipped is not None and bool(flipped.any()):
            flipped = flipped.to(self.features.device)
            taken[flipped] = self.mirrored[index[flipped]]
        return taken


Examples = PreparedImages | Features | KeptFeatures


@dataclass(frozen=True)
class Data:
    """What a network is trained on and tested on."""

    train: Examples
    test: Examples


def keep_features(train: Features, test: Features, cache: str, mirrored: bool,
                  context: Context) -> Data:
    """Data of a frozen layer's features, computed once where that is possible.

    Layers and images do not change, so their features are computed once where they fit in the
    device's memory (`cache` auto) or in any case (on); otherwise batch by batch. They are the same
    either way.
    """
    row = train.take(slice(0, 1))
    needed = (len(train) + len(test)) * row[0].numel() * row.element_size()
    if mirrored:
        needed += len(train) * row[0].numel() * row.element_size()
    # On the CPU all processes of a machine keep theirs in one memory.
    sharing = read_launch().on_this_machine if context.device.type == "cpu" else 1
    # All processes must decide alike, or those that go on would wait for the others.
    too_large = any_process(2 * sharing * needed > free_memory(context.device), context.device)
    if cache == "off" or (cache == "auto" and too_large):
        say("the frozen first layer runs batch by batch")
        return Data(train, test)
    if context.device.type == "cpu":
        require_memory(needed, "keeping the first layer's output", "choose --feature_cache off",
                       for_each_process=True)
    wait_for_all()                                       # until all have looked at the free memory
    data = Data(train.kept(mirrored), test.kept(mirrored=False))
    say(f"the frozen first layer runs once: its output takes {needed / 1e9:.2f} GB")
    return data
