"""Scheduled retraining: find changes of the data, decide, train, and record the outcome.

`decision.decide` is the policy, and depends on nothing but its arguments. `inventory` lists the
data, `losses` finds what is missing since the last training, and `drift` measures the distance of
new images from the others. Only `drift` imports TensorFlow.
"""
