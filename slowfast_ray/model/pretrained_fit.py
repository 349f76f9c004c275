"""Fits a network's weights to an experiment: one colour instead of three, our normalisation, other classes.

A value x of our clips is (grey - M) / S. Where the source wanted (grey - m_c) / s_c in each channel c, its stem sees
x * S / s_c + (M - m_c) / s_c: the factor goes into the weights, and the sum of the offset over the kernel into the
running mean of the stem's BatchNorm. That is exact except at the borders of a clip: zero padding stands for M here, and
for m_c there. How much is left over is computed, not guessed.

Shapes: O output channels, I input channels, T H W the kernel, or a clip; N classes, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from slowfast_ray.model.config import ModelConfig
from slowfast_ray.model.pretrained_names import FAST_STEM, HEAD, SLOW_STEM
from slowfast_ray.model.pretrained_report import OURS, Normalisation, Report, Weights, named

EPS = 1e-5
"""Of BatchNorm: torch's, and that of all toolkits here."""
STEM_STRIDE = (1, 2, 2)
BORDER_SIDES = (16, 17)
"""An even and an odd side of a clip: the last pixels meet another part of the stem's kernel [pixels]."""
BORDER_FRAMES = 8

State = dict[str, torch.Tensor]


def fit(
    weights: Weights, config: ModelConfig, classes: Sequence[str] | None = None, *, partial: bool = False
) -> Weights:
    """`weights` for the network that `config` describes, and for clips normalised as ours are.

    `classes` are the names of the experiment, where known. What stays at its initial values is left out of the state
    and named by the report. Raises ValueError for another architecture, and, unless `partial`, for weights that lack
    more than the classifier or hold more than the network.
    """
    _refuse_other_architecture(weights, config)
    if not partial:
        refuse_incomplete(weights.report)
    state = dict(weights.state)
    stems = {
        pathway: _fit_stem(state, stem, weights, config) for pathway, stem in (("slow", SLOW_STEM), ("fast", FAST_STEM))
    }
    num_classes, head, kept = _fit_head(weights, config, classes)
    if not kept:
        for key in HEAD:
            state.pop(key, None)
    fresh = [
        *weights.report.missing,
        *(each.split(" ")[0] for each in weights.report.mismatched),
        *(key for each in stems.values() for key in each.fresh),
        *(() if kept else HEAD),
    ]
    borders = {pathway: each.border for pathway, each in stems.items() if each.border is not None}
    report = replace(
        weights.report,
        reshaped=(*weights.report.reshaped, *(words for each in stems.values() for words in each.reshaped)),
        fresh=tuple(dict.fromkeys(fresh)),
        head=head,
        borders=borders or None,
        warnings=tuple(_warnings(weights.model, config)),
    )
    return Weights(
        model=replace(config, num_classes=num_classes),
        state=state,
        normalisation=OURS.for_channels(config.channels),
        classes=weights.classes if classes is None else tuple(classes),
        report=report,
    )


def refuse_incomplete(report: Report) -> None:
    """Raises ValueError where more than the classifier is missing or does not fit, or there is too much."""
    faults = [
        f"{words} {named(keys)}"
        for words, keys in (
            ("lacks", [key for key in report.missing if key not in HEAD]),
            ("holds, beyond the network,", report.unexpected),
            ("has in another shape", [each for each in report.mismatched if each.split(" ")[0] not in HEAD]),
        )
        if keys
    ]
    if faults:
        raise ValueError(
            f"`model.weights` (={report.path}) {'; it '.join(faults)}. `--model.weights-partial True` accepts that: "
            "what is missing then starts fresh."
        )


def _refuse_other_architecture(weights: Weights, config: ModelConfig) -> None:
    names = ("width", "depth", "lateral_kernel", "lateral_norm")
    wrong = [name for name in names if getattr(weights.model, name) != getattr(config, name)]
    if wrong:
        both = ", ".join(
            f"`model.{name}` {getattr(weights.model, name)} (not {getattr(config, name)})" for name in wrong
        )
        flags = " ".join(f"--model.{name.replace('_', '-')} {getattr(weights.model, name)}" for name in wrong)
        raise ValueError(f"`model.weights` (={weights.report.path}) are of a network with {both}; take {flags}.")
    if weights.model.channels < config.channels:
        raise ValueError(
            f"`model.channels` (={config.channels}) is more than the {weights.model.channels} of `model.weights` "
            f"(={weights.report.path}); take --model.channels 1."
        )


@dataclass(frozen=True)
class _Stem:
    """What became of one pathway's stem."""

    reshaped: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()
    border: float | None = None


def _fit_stem(state: State, stem: str, weights: Weights, config: ModelConfig) -> _Stem:
    num_channels = weights.model.channels
    theirs, ours = weights.normalisation.for_channels(num_channels), OURS.for_channels(num_channels)
    is_same = theirs == ours
    if is_same and num_channels == config.channels:
        return _Stem()
    conv, norm = f"{stem}.conv.weight", [f"{stem}.norm.{leaf}" for leaf in ("running_mean", "running_var", "weight")]
    if conv not in state or (not is_same and any(key not in state for key in norm)):  # half a stem is another function
        own = [key for key in state if key.startswith(f"{stem}.")]
        for key in own:
            del state[key]
        return _Stem(fresh=tuple(own))
    weight_OITHW = state[conv].double()
    factor_I, offset_I = _factor_and_offset(theirs, ours)
    scaled_OITHW = weight_OITHW * factor_I[:, None, None, None]
    if config.channels == 1:
        scaled_OITHW = scaled_OITHW.sum(1, keepdim=True)
    state[conv] = scaled_OITHW.float()
    sums = f"{conv} ({num_channels} channels into {config.channels})" if num_channels != config.channels else None
    if is_same:
        return _Stem(reshaped=(sums,) if sums else ())
    mean_O, variance_O, scale_O = (state[key].double() for key in norm)
    shift_O = torch.einsum("oithw,i->o", weight_OITHW, offset_I)
    state[norm[0]] = (mean_O - shift_O).float()
    scale_O = scale_O / (variance_O + EPS).sqrt()
    folded = "(the source's normalisation folded in)"
    reshaped = (f"{sums or conv} {folded}", f"{norm[0]} {folded}")
    return _Stem(reshaped=reshaped, border=_largest_border(weight_OITHW, offset_I, shift_O, scale_O))


def _factor_and_offset(theirs: Normalisation, ours: Normalisation) -> tuple[torch.Tensor, torch.Tensor]:
    """For each channel what makes the source's values of ours, float64 [I]."""
    (mean_I, std_I), (our_mean_I, our_std_I) = (
        (torch.tensor(each.mean, dtype=torch.float64), torch.tensor(each.std, dtype=torch.float64))
        for each in (theirs, ours)
    )
    return our_std_I / std_I, (our_mean_I - mean_I) / std_I


def _largest_border(
    weight_OITHW: torch.Tensor, offset_I: torch.Tensor, shift_O: torch.Tensor, scale_O: torch.Tensor
) -> float:
    """How far the stem's output after BatchNorm can be from the source's: the part of the shift that padding lacks."""
    padding = tuple(size // 2 for size in weight_OITHW.shape[2:])
    largest = 0.0
    for height in BORDER_SIDES:
        for width in BORDER_SIDES:
            clip_1ITHW = offset_I[None, :, None, None, None].expand(-1, -1, BORDER_FRAMES, height, width)
            seen_OTHW = F.conv3d(clip_1ITHW, weight_OITHW, stride=STEM_STRIDE, padding=padding)[0]
            lacking_OTHW = (shift_O[:, None, None, None] - seen_OTHW) * scale_O[:, None, None, None]
            largest = max(largest, float(lacking_OTHW.abs().max()))
    return largest


def _fit_head(weights: Weights, config: ModelConfig, classes: Sequence[str] | None) -> tuple[int | None, str, bool]:
    """Classes of the fitted network, what became of the classifier, and whether it was kept."""
    theirs = weights.model.num_classes
    num_classes = config.num_classes or (len(classes) if classes is not None else theirs)
    if any(key not in weights.state for key in HEAD):
        return num_classes, "fresh: the file has none that fits", False
    if num_classes != theirs:
        return num_classes, f"fresh: {theirs} classes in the file, {num_classes} here", False
    if classes is not None and weights.classes is not None and tuple(classes) != weights.classes:
        return num_classes, f"fresh: other classes in the file ({named(weights.classes)})", False
    known = "and names agree" if classes is not None and weights.classes is not None else "agrees; names are not known"
    return num_classes, f"kept: the number of classes (={theirs}) {known}", True


def _warnings(theirs: ModelConfig, config: ModelConfig) -> list[str]:
    return [
        f"`model.{name}` (={getattr(config, name)}) is not the {getattr(theirs, name)} of these weights: they compute "
        "something else then."
        for name in ("alpha", "slow_frames")
        if getattr(config, name) != getattr(theirs, name)
    ]
