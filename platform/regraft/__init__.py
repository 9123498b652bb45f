"""Transfer learning on Ray: `regraft.train(spec)` and `regraft.load("name@alias").predict(rows)`.

Importing this package imports neither torch nor Ray: the functions bring them in when they are called.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.release import VERSION

if TYPE_CHECKING:
    from regraft.contracts import Progress
    from regraft.serving.predictor import Predictor
    from regraft.spec import RunSpec
    from regraft.training.session import Outcome

__all__ = ["__version__", "load", "train"]

__version__ = VERSION


def train(
    spec: RunSpec | Mapping[str, Any] | str | Path,
    *,
    overrides: Mapping[str, object] | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
) -> Outcome:
    """Run a spec (an object, a mapping, or the path of a YAML file) to its end and register the model.

    `overrides` replaces dotted fields (`{"training.lr": 1e-4}`), as `--set` does. The same spec again continues its
    run, or says that it is finished; `fresh` starts another. `progress` receives every event as a mapping.
    Raises SpecError with all problems at once, before anything starts.
    """
    from regraft.spec import RunSpec

    if isinstance(spec, str | Path):
        spec = RunSpec.load(Path(spec), overrides=overrides)
    elif isinstance(spec, RunSpec):
        spec = spec.override(overrides) if overrides else spec
    else:
        spec = RunSpec.resolve(spec, overrides=overrides)
    if spec.compute.workers == 0:
        # In this process, so that machines without Ray can train too.
        from regraft.training.session import train_local

        return train_local(spec, fresh=fresh, progress=progress)
    from regraft.cluster.train import train as train_on_ray

    return train_on_ray(spec, fresh=fresh, progress=progress, address=address)


def load(reference: str, *, store: str | None = None, plugins: Sequence[str | Path] = ()) -> Predictor:
    """A registered model, ready to answer: `load("support-tickets@production").predict([{"text": "..."}])`.

    `reference` is a name with an optional @version or @alias. `store` is the folder or s3:// URL that holds it; when
    None, REGRAFT_STORE, else ./regraft-store. `plugins` are the folders of your own tasks and methods that it needs.
    Raises NotThere with the nearest match.
    """
    from regraft.serving.predictor import Predictor

    store = store or os.environ.get("REGRAFT_STORE") or "./regraft-store"
    return Predictor.open(store, reference, plugins=plugins)
