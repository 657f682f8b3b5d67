"""Where the chain of each sample and view stands, and the logit of that state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from negplug.contract.ids import UNKNOWN
from negplug.contract.sample_table import SampleTable


class ChainTable(SampleTable):
    """The state of each chain, a sample, and its logit at the last visit."""

    state: Tensor
    score: Tensor

    def __init__(self) -> None:
        super().__init__(state=UNKNOWN, score=-torch.inf)

    def check_values(self, values: dict[str, Any]) -> None:
        """Raise ``ValueError`` unless only chains that stand somewhere have a logit."""
        super().check_values(values)
        if ((values["state"] == UNKNOWN) & (values["score"] > -torch.inf)).any():
            raise ValueError(
                "a saved chain has a score, but no state that it is of; the file is damaged"
            )
