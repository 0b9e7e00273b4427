"""Scheduled retraining: detect changes in the data, decide, train, and record the outcome.

`decision.decide` is the policy, a pure function. `inventory` lists the data, `losses` finds images
that are missing since the last training, and `drift` measures how new images differ from the
baseline's. Only `drift` imports TensorFlow.
"""
