"""Whether a new model takes the place of the champion: only where the same validation samples say so.

The samples are drawn again in stretches of time, the same draws for both models; the challenger must come out ahead in
97.5 % of them: the lower bound of a 95 % interval lies above 0.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from slowfast_ray.data.dataset import Dataset
from slowfast_ray.learning import intervals
from slowfast_ray.learning.intervals import Comparison, Interval
from slowfast_ray.learning.predictions import Predictions
from slowfast_ray.running.folders import begun

PREDICTIONS = "predictions.safetensors"
"""Among the evidence: logits and truth of every validation sample, as a checkpoint keeps them."""
DECISION = "decision.json"


@dataclass(frozen=True)
class Decision:
    """Who is champion, and why."""

    replaces: bool
    """Whether the challenger becomes the champion."""
    reason: str
    """One sentence."""
    champion: str | None
    """The model that it was compared with: models:/NAME/VERSION; None where there was none."""
    is_forced: bool = False
    quantity: str = ""
    """What differs: mean class recall, or top-1 under the labels multi; empty where nothing was compared."""
    difference: Interval | None = None
    """Challenger over champion."""
    test: Comparison | None = None
    """McNemar's exact test of top-1; a is the challenger."""

    def to_json(self) -> str:
        """For programs; what is unknown is null."""
        content = asdict(self)
        for name in ("difference", "test"):
            if content[name] is not None:
                content[name] = {key: None if value != value else value for key, value in content[name].items()}
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def tags(self) -> dict[str, str]:
        """Of the version that was judged."""
        found = {
            "decision": "champion" if self.replaces else "not champion",
            "decision_reason": self.reason,
            "compared_with": self.champion or "",
            "difference": "" if self.difference is None else f"{self.quantity} {self.difference}",
            "mcnemar_p": "" if self.test is None else f"{self.test.p_value:.4g}",
        }
        return {f"slowfast_ray.{name}": value for name, value in found.items() if value}


def decide(
    data: Dataset, challenger: Predictions, champion: str | None, evidence: Path | None, *, force: bool = False
) -> Decision:
    """The challenger, which was trained and validated on `data`, against the champion with its evidence.

    `evidence` is None where the champion has none that can be read. `force` replaces whatever the samples say, which
    are still compared where they can be.
    """
    if champion is None:
        return Decision(True, "There was no champion: the first model becomes it.", None)
    found = _compare(data, challenger, champion, evidence)
    if found.replaces:
        return found
    if force:
        return replace(found, replaces=True, is_forced=True, reason=f"Forced. {found.reason}")
    return replace(found, reason=f"{found.reason} {champion} stays champion.")


def _compare(data: Dataset, challenger: Predictions, champion: str, evidence: Path | None) -> Decision:
    if data.config.split == "all":
        reason = "The model was trained on its validation samples (data.split all), which say nothing."
        return Decision(False, reason, champion)
    try:
        if evidence is None:
            raise ValueError("it has none")
        before = Predictions.load(evidence / PREDICTIONS)
        members = json.loads((evidence / begun.MEMBERS).read_text(encoding="utf-8"))
        fingerprint, val_ids = members["split_fingerprint"], members["val"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Decision(False, f"The evidence of {champion} cannot be read ({error}).", champion)
    is_same = fingerprint == data.fingerprint and val_ids == list(data.val.ids)
    if not is_same or not torch.equal(before.target, challenger.target):
        return Decision(
            False,
            f"{champion} was trained and validated on other samples (split {fingerprint}, this model's is "
            f"{data.fingerprint}), so that the two do not compare.",
            champion,
        )
    right_S, right_before_S = challenger.right_S().numpy(), before.right_S().numpy()
    if challenger.is_multi:
        quantity, difference = "top-1", intervals.paired_top1(right_S, right_before_S, data.val.blocks_S)
    else:
        predicted_S, predicted_before_S = challenger.predicted_S().numpy(), before.predicted_S().numpy()
        quantity = "mean class recall"
        difference = intervals.paired_bootstrap(
            challenger.target.numpy(), predicted_S, predicted_before_S, data.val.blocks_S
        )
    test = intervals.mcnemar(right_S, right_before_S)
    num_blocks = len(np.unique(data.val.blocks_S))
    shown = f"{quantity} over {champion}: {difference}, {num_blocks} stretch(es); McNemar p = {test.p_value:.3g}"
    if difference.low > 0:
        return Decision(True, f"Better: {shown}.", champion, False, quantity, difference, test)
    return Decision(False, f"Not shown to be better: {shown}.", champion, False, quantity, difference, test)
