"""The resolver strategy for the model that a training begins with."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx import types
from tfx.dsl.components.common import resolver

from components import progress
from components.lineage import Lineage, contents
from components.resolvers.baseline import MODEL, MODEL_BLESSING, blessed_models

EXAMPLES = "examples"


class WarmStartStrategy(resolver.ResolverStrategy):
    """A strategy that resolves `model` to the latest blessed Model not trained on `examples`.

    Were it simply the latest one, a rerun on the same data would find the model of the run before,
    so that no training was ever taken from the cache. Nor is it one that has seen images in
    training which are held out now, as where splits were changed: what begins with it would be
    judged by what it knows. Reports why there is none, if so.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        examples = {artifact.id for artifact in input_dict[EXAMPLES]}
        blessed, blessings = blessed_models(input_dict)
        earlier = [model for model in blessed if not examples & Lineage(store).inputs_of(model)]
        base = max(earlier, key=lambda model: model.id, default=None)
        why = (
            "every blessed model was trained on these same images"
            if blessed
            else "no model is blessed yet"
        )
        if base and (
            known := _known(store, base, min(input_dict[EXAMPLES], key=lambda each: each.id))
        ):
            base, why = None, f"the baseline {known}"
        if base is None:
            progress.report("note", text=f"train.warm_start: {why}, so training starts afresh")
        return {
            EXAMPLES: input_dict[EXAMPLES],
            MODEL: [base] if base else [],
            MODEL_BLESSING: [blessings[base.id]] if base else [],
        }


def _known(store: mlmd.MetadataStore, model: types.Artifact, examples: types.Artifact) -> str:
    """Describe which images held out from `examples` a model was trained on; "" for none."""
    now = next(Lineage(store).ingested(examples), "")
    if not now:
        return ""
    held_out = contents(now, "eval", "test")
    try:
        seen = [contents(uri, "train") for uri in Lineage(store).ingested(model)]
    except OSError:
        return "was trained on images of which the list is gone, so that they may be held out now"
    count = len(held_out & set().union(*seen))
    return f"was trained on {count:,} of the images that are held out now" if count else ""
