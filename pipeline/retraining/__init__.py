"""Retraining without a person: what is new, whether that is worth a training, and what came of it.

`decision.decide` is the policy, and depends on nothing but its arguments. `inventory` says what the
data is now, `judged` what it was at the last training, and `drift` how far the new images are from
those. Nothing here imports TensorFlow or TFX unless new images have to be looked at.
"""
