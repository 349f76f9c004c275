"""The settings of the loss: what no training can mean is refused, with its name and value."""

import math
from typing import Any

import pytest

from slowfast_ray.learning.config import LearningConfig


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"loss": "hinge"}, r"`learning.loss` \(='hinge'\) must be one of cross_entropy, focal"),
        ({"class_weights": "sqrt"}, r"must be one of none, inverse_frequency, effective_number"),
        ({"focal_gamma": -0.1}, r"`learning.focal_gamma` \(=-0.1\) must be 0 or more; try 2"),
        ({"focal_gamma": math.inf}, "focal_gamma"),
        ({"focal_gamma": math.nan}, "focal_gamma"),
        ({"logit_adjustment": -1.0}, r"`learning.logit_adjustment` \(=-1.0\) must be 0 or more; try 1"),
        ({"logit_adjustment": math.nan}, "logit_adjustment"),
        ({"effective_number_beta": 1.0}, r"`learning.effective_number_beta` \(=1.0\) must be 0 or more and below 1"),
        ({"effective_number_beta": -0.5}, "effective_number_beta"),
        ({"effective_number_beta": math.nan}, "effective_number_beta"),
    ],
)
def test_what_no_loss_can_mean_is_refused(changes: dict[str, Any], law: str) -> None:
    with pytest.raises(ValueError, match=law):
        LearningConfig(**changes)


def test_the_bounds_themselves_are_allowed() -> None:
    LearningConfig(loss="focal", focal_gamma=0, logit_adjustment=0, effective_number_beta=0)
    LearningConfig(class_weights="effective_number", effective_number_beta=0.9999, logit_adjustment=1)
