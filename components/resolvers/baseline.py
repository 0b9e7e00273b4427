"""The resolver strategy for the baseline."""

from __future__ import annotations

import ml_metadata as mlmd
from tfx import types
from tfx.components.evaluator import constants
from tfx.dsl.components.common import resolver

CANDIDATE = "candidate"
MODEL = "model"
MODEL_BLESSING = "model_blessing"


class BaselineStrategy(resolver.ResolverStrategy):
    """A strategy that resolves `model` to the latest blessed Model that is not the `candidate`.

    TFX's LatestBlessedModelStrategy runs before the candidate exists, so that a rerun which takes
    the candidate from the cache finds that same model as its own baseline: it is then evaluated
    against itself and pushed a second time.
    """

    def resolve_artifacts(
        self, store: mlmd.MetadataStore, input_dict: dict[str, list[types.Artifact]]
    ) -> dict[str, list[types.Artifact]]:
        candidates = {artifact.id for artifact in input_dict[CANDIDATE]}
        blessed, blessings = blessed_models(input_dict)
        blessed = [model for model in blessed if model.id not in candidates]
        baseline = max(blessed, key=lambda model: model.id, default=None)
        return {
            CANDIDATE: input_dict[CANDIDATE],
            MODEL: [baseline] if baseline else [],
            MODEL_BLESSING: [blessings[baseline.id]] if baseline else [],
        }


def blessed_models(
    input_dict: dict[str, list[types.Artifact]],
) -> tuple[list[types.Artifact], dict[int, types.Artifact]]:
    """Find the blessed models, and their blessings by the models' ids."""
    blessings = {
        blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_CURRENT_MODEL_ID_KEY): blessing
        for blessing in input_dict[MODEL_BLESSING]
        if blessing.get_int_custom_property(constants.ARTIFACT_PROPERTY_BLESSED_KEY)
        == constants.BLESSED_VALUE
    }
    return [model for model in input_dict[MODEL] if model.id in blessings], blessings
