"""What a model knows of its own speed: the costs of its forwards and how they run at present."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from edge import profile
from edge.budget import CAUTION, MORE_CAUTION, Pace, Smoothed
from edge.config import ModelConfig
from edge.costs import Sample, StepCosts, guess
from edge.drafting import Drafting
from edge.profile import Identity

_log = logging.getLogger(__name__)


class Timing:
    """What a model knows of its own speed, for all its requests.

    ``stoppable`` says whether its backend heeds the deadline inside a forward.
    """

    def __init__(
        self,
        config: ModelConfig,
        threads: int,
        identity: Callable[[], Identity],
        *,
        stoppable: bool,
    ) -> None:
        self.config = config
        self.stoppable = stoppable
        self.pace = Pace(caution=CAUTION if stoppable else MORE_CAUTION)
        self.drafting = Drafting(config.diffusion.block_length - 1, config.diffusion.draft_rows)
        self._threads = threads
        self._identity = identity
        self._costs: StepCosts | None = None
        self._learned = False
        self._lock = threading.Lock()

    @property
    def costs(self) -> StepCosts:
        """The profile of this device, else a guess that the first forwards put right."""
        with self._lock:
            if self._costs is None:
                stored = profile.read(self._identity())
                self._use(stored or guess(self.config.denoiser, self._threads))
            assert self._costs is not None
            return self._costs

    def use(self, costs: StepCosts) -> None:
        """Take other costs from now on."""
        with self._lock:
            self._use(costs)

    def _use(self, costs: StepCosts) -> None:
        self._costs = costs
        self.pace.guessed, self.pace.measured = costs.source == "guess", False
        self.pace.rate = Smoothed(1.0, Pace().v)

    def learn(self, samples: Sequence[Sample]) -> None:
        """Correct costs that were never calibrated by the forwards of a request."""
        with self._lock:
            if self._costs is None or self._costs.source == "calibration" or not samples:
                return
            self._use(self._costs.corrected(samples))
            self._learned = True

    def save(self) -> None:
        """Store what was learned; a folder that cannot be written is no reason to fail."""
        if self._costs is None or not self._learned or self._costs.source != "steps":
            return
        try:
            profile.write(self._identity(), self._costs)
        except OSError as problem:
            _log.info("the timing profile is not stored: %s", problem)
