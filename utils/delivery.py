"""What the provider delivers, as the developer reads it: data/delivery/ and nothing else."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from parameter import Parameters
from utils.artifacts import load, read_manifest
from utils.program import UserError, require_memory
from utils.training import Data

AGAIN = "run `python gen_augconv.py` again"


@dataclass(frozen=True)
class Delivery:
    """The manifest: geometry of the images (α, m, m) and of Aug-Conv's output (β, n, n)."""

    folder: Path
    delivery: str                       # ties Aug-Conv and the morphed images to each other
    dataset: str
    classes: list[str]
    shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    image_padding: int
    kappa: int
    morph_distribution: str
    train_images: int
    test_images: int

    def about(self) -> dict:
        """What a result says of the data."""
        return {"dataset": self.dataset, "classes": len(self.classes), "kappa": self.kappa,
                "morph_distribution": self.morph_distribution, "image_padding": self.image_padding,
                "train_images": self.train_images, "test_images": self.test_images}

    def identity(self, p: Parameters) -> dict:
        """What makes a run on this delivery the run it is."""
        own = ("dataset", "dataset_dir", "image_size", "train_limit", "test_limit")
        return {k: v for k, v in p.experiment().items() if k not in own} | {
            "delivery": self.delivery}

    def aug_conv(self) -> tuple:
        """Weight, output shape and bias (or None) of Aug-Conv."""
        path = self.folder / "aug_conv.pt"
        content = load(path)
        weight, out_shape = content["weight"], content["out_shape"]
        if (tuple(out_shape) != self.out_shape or len(weight) != self._entries()):
            raise UserError(f"{path} is for other images or another first layer than "
                            f"{self.folder / 'manifest.json'} says: {AGAIN}")
        return weight, out_shape, content.get("bias")

    def data(self) -> Data:
        """Morphed images (N, αm²) float32 and labels of both splits."""
        require_memory(4 * self._entries() * (self.train_images + self.test_images),
                       f"reading the morphed images in {self.folder}",
                       "ask for fewer (gen_augconv.py --train_limit)")
        tensors = []
        for split, count in (("train", self.train_images), ("test", self.test_images)):
            path = self.folder / f"morphed_{split}.pt"
            content = load(path)
            images, labels = content["images"], content["labels"]
            if images.shape != (count, self._entries()) or labels.shape != (count,):
                raise UserError(f"{path} is of another geometry than "
                                f"{self.folder / 'manifest.json'} says: {AGAIN}")
            if int(labels.min()) < 0 or int(labels.max()) >= len(self.classes):
                raise UserError(f"{path} has labels beyond its {len(self.classes)} classes: "
                                f"{AGAIN}")
            tensors += [images, labels]
        return Data(*tensors, prepare=lambda x: x)

    def is_sound(self) -> bool:
        """Whether types and values of the manifest are what gen_augconv.py writes."""
        numbers = (*self.shape, *self.out_shape, self.kappa, self.train_images, self.test_images)
        return (all(type(x) is int and 0 < x < 2**31 for x in numbers)
                and type(self.image_padding) is int
                and len(self.shape) == len(self.out_shape) == 3
                and self.shape[1] == self.shape[2] >= 4 + 2 * self.image_padding >= 4
                and self.out_shape[1] == self.out_shape[2] and self._entries() % self.kappa == 0
                and isinstance(self.classes, list) and len(self.classes) >= 2
                and all(isinstance(x, str) for x in self.classes)
                and all(re.fullmatch(r"[A-Za-z0-9_.-]{1,60}", str(x))
                        for x in (self.dataset, self.morph_distribution)))

    def _entries(self) -> int:
        return self.shape[0] * self.shape[1] * self.shape[2]


def read_delivery(folder: Path) -> Delivery:
    """The delivery in a folder, its files not yet read.

    Raises UserError where there is none, where its files come from several runs of the provider, or
    where the manifest makes no sense.
    """
    manifest = read_manifest(folder)
    try:
        delivery = Delivery(folder, **{
            name: tuple(manifest[name]) if "shape" in name else manifest[name]
            for name in Delivery.__dataclass_fields__ if name != "folder"})
        tied = delivery.delivery == identifier(manifest["files"])
    except (KeyError, TypeError):
        raise UserError(f"{folder / 'manifest.json'} is damaged: {AGAIN}") from None
    if not tied:
        raise UserError(f"{folder / 'manifest.json'} tells of files that do not belong together: "
                        f"{AGAIN}")
    if not delivery.is_sound():
        raise UserError(f"{folder / 'manifest.json'} tells of impossible images: {AGAIN}")
    return delivery


def identifier(files: dict) -> str:
    """What ties the files of a delivery to each other, from their entries in the manifest."""
    return hashlib.sha256("".join(
        entry["sha256"] for _, entry in sorted(files.items())).encode()).hexdigest()


def standardised(data: Data) -> Data:
    """Each entry of the morphed images to mean 0 and deviation 1 over the training images.

    A uniform core adds a large common component to every entry. Any developer can take it away.
    """
    deviation, mean = torch.std_mean(data.train.double(), dim=0)
    scale = 1 / deviation.clamp_min(1e-12)
    return data._replace(train=((data.train - mean) * scale).float(),
                         test=((data.test - mean) * scale).float())
