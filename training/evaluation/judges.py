"""What the judges say of edits, and all figures of one method."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lazy_core.blend.composite import composite
from lazy_core.masks import threshold

from ..scenery.scenes import FAR, NEAR, UNKNOWN, Scenes, SpriteSheet
from .edits import BATCH
from .figures import Figure, colour_shift, frechet, interval, joint, ratio, recall, seam
from .judge import Classifier, features, load_judge, style_crops, style_path, verdict
from .methods import MethodEditor


@dataclass
class JudgedEdits:
    """Edits by one method: `image` as a user gets it (feathered), `raw` with the hole pasted as it is, both [B, 3, H,
    W].
    """

    method: str
    name: str
    image: Tensor
    raw: Tensor
    tokens: Tensor
    ms: list[float] = field(default_factory=list)

    @classmethod
    def real(cls, scenes: Scenes) -> JudgedEdits:
        return cls("real", "real", scenes.image, scenes.image, torch.zeros(len(scenes.label)), [0.0])

    @classmethod
    def through_vae(cls, editor: MethodEditor, scenes: Scenes) -> JudgedEdits:
        vae = editor.editor
        with torch.inference_mode():
            raw = torch.cat([vae.to_image(vae.to_latent(part)) for part in scenes.image.split(BATCH)])
        return cls(
            "vae",
            "vae",
            composite(scenes.empty, raw, threshold(scenes.mask[:, 0]), "feather"),
            raw,
            torch.zeros(len(raw)),
            [0.0],
        )


@dataclass(frozen=True)
class Seen:
    """What judges make of holes: features of `objects` and of `drawing` [n, F] (None without a judge of styles);
    `style` [n, K] is the scene's.
    """

    objects: Tensor
    drawing: Tensor | None
    style: Tensor

    def apart(self, other: Seen) -> Figure | None:
        """How far objects, drawing and the scene's style, taken together, are from those of `other`."""
        if self.drawing is None or other.drawing is None:
            return None
        mine, theirs = torch.cat([self.objects, self.drawing], 1), torch.cat([other.objects, other.drawing], 1)
        return joint(mine, self.style, theirs, other.style)


@dataclass(frozen=True)
class Judges:
    objects: Classifier
    styles: Classifier | None

    @classmethod
    def load(cls, path: Path, sheet: SpriteSheet, device: torch.device | str = "cpu") -> Judges:
        """The style judge where the data has styles and it was trained."""
        several = len(sheet.styles) > 1 and style_path(path).exists()
        styles = load_judge(style_path(path), len(sheet.styles), device) if several else None
        return cls(load_judge(path, len(sheet), device), styles)

    def seen(self, image: Tensor, scenes: Scenes) -> Seen:
        objects, styles = features(self.objects, image, scenes.mask), self.styles
        if styles is None:
            return Seen(objects, None, F.one_hot(scenes.style))
        return Seen(
            objects,
            features(styles, image, scenes.mask, style_crops),
            F.one_hot(scenes.style, styles.head.out_features),
        )

    def verdicts(self, seen: Seen, scenes: Scenes) -> tuple[Tensor, Tensor | None]:
        """[B] bool: whether each hole shows what was asked for, and in its scene's style."""
        agree = (
            None if self.styles is None or seen.drawing is None else verdict(self.styles, seen.drawing) == scenes.style
        )
        return verdict(self.objects, seen.objects) == scenes.label, agree

    def row(self, run: JudgedEdits, scenes: Scenes, reference: Seen) -> dict[str, Any]:
        """All figures of one method, each [value, low, high]; None where no edit, or no judge, can tell."""
        seen, unseen = self.seen(run.image, scenes), scenes.unseen
        right, agree = self.verdicts(seen, scenes)
        row: dict[str, Any] = {"method": run.method, "name": run.name, "prompt_accuracy": interval(right)}
        if agree is not None:
            row["style_agreement"] = interval(agree)
        row["style_agreement_near"] = None if agree is None else interval(agree[scenes.seen == NEAR])
        row["style_agreement_far"] = None if agree is None else interval(agree[scenes.seen == FAR])
        row["style_agreement_bare"] = None if agree is None else interval(agree[scenes.seen == UNKNOWN])
        row["prompt_accuracy_unseen"] = interval(right[unseen])
        row["style_agreement_unseen"] = None if agree is None else interval(agree[unseen])
        row["frechet"], row["recall"] = (
            frechet(seen.objects, reference.objects),
            recall(seen.objects, reference.objects),
        )
        row["frechet_joint"] = seen.apart(reference)
        row["seam"] = ratio(seam(run.raw, scenes.mask), seam(scenes.image, scenes.mask))
        row["seam_blended"] = ratio(seam(run.image, scenes.mask), seam(scenes.image, scenes.mask))
        row["colour_shift"] = interval(colour_shift(run.raw, scenes.image, scenes.mask))
        row["ms"], row["tokens"] = interval(torch.tensor(run.ms)), round(float(run.tokens.mean()), 1)
        return row
