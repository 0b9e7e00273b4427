"""Pretrained BiT backbones: the official .npz arrays, and SavedModels as layers."""

from __future__ import annotations

import re
from pathlib import Path

import keras
from keras import layers

from trainer_module import weights
from trainer_module.models.bit_resnet import VARIANTS, bit_resnet
from trainer_module.weights import WeightsError, WeightSpec

HEAD = "resnet/head/conv2d/"


def pretrained_bit(
    variant: str, spec: WeightSpec, *, image_size: int | None, num_classes: int
) -> keras.Model:
    """Make a model of `spec`'s backbone and a new head: pixels to `num_classes` logits, all 0.

    Raises:
        WeightsError: the weights cannot be had, or do not fit.
    """
    if spec.is_saved_model:
        features, images = _saved_model_outputs(spec, image_size)
        head = layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="head")
        return keras.Model(images, head(features), name="bit_saved_model")
    model = bit_resnet(
        VARIANTS[variant], image_size=image_size, num_classes=num_classes, input_range=spec.range
    )
    if spec.source:
        load_bit_npz(model, spec.fetch(), head=False)
    if not spec.trainable:
        for layer in model.layers:
            layer.trainable = layer.name == "head"
    return model


def pretrained_classifier(variant: str, spec: WeightSpec, *, image_size: int) -> keras.Model:
    """Make a model of `spec`'s backbone and its published head: pixels to logits.

    Raises:
        WeightsError: the weights cannot be had, do not fit, or have no head.
    """
    if spec.is_saved_model:
        logits, images = _saved_model_outputs(spec, image_size)
        return keras.Model(images, logits, name="bit_saved_model")
    path = spec.fetch()
    bias = weights.load_npz(path).get(f"{HEAD}bias")
    if bias is None:
        raise WeightsError(f"the weights {spec.source} have no head to predict with")
    model = bit_resnet(
        VARIANTS[variant], image_size=image_size, num_classes=bias.size, input_range=spec.range
    )
    load_bit_npz(model, path, head=True)
    return model


def load_bit_npz(model: keras.Model, path: Path, *, head: bool) -> None:
    """Set the weights of a `bit_resnet` to the arrays of an official file.

    Without `head`, the file's and the model's are both left out. Raises WeightsError, with nothing
    assigned, unless every array then belongs to one weight and every weight to one array.
    """
    arrays = {}
    for name, array in weights.load_npz(path).items():
        # Some files number the convolutions.
        plain = re.sub(r"standardized_conv2d_\d+/", "standardized_conv2d/", name)
        if plain in arrays:
            raise WeightsError(f"the weights {path} hold {plain} twice")
        # The head was a 1x1 convolution.
        is_kernel = plain == f"{HEAD}kernel" and array.shape[:2] == (1, 1)
        arrays[plain] = array[0, 0] if is_kernel else array
    variables = {npz_name(variable.path): variable for variable in model.variables}
    if not head:
        arrays, variables = (
            {name: value for name, value in items.items() if not name.startswith(HEAD)}
            for items in (arrays, variables)
        )
    weights.assign(arrays, variables, path)


def npz_name(path: str) -> str:
    """Return the official name of the array for a `bit_resnet` variable.

    "block1_unit01_a_conv/kernel" is "resnet/block1/unit01/a/standardized_conv2d/kernel".
    """
    layer, part = path.split("/")
    if layer == "head":
        return f"{HEAD}{part}"
    *place, kind = layer.split("_")
    if place[-1] == "proj":
        place.insert(-1, "a")
    place = {"root": ["root_block"], "final": []}.get(place[0], place)
    kind = {"conv": "standardized_conv2d", "norm": "group_norm"}[kind]
    return "/".join(["resnet", *place, kind, part])


def _saved_model_outputs(
    spec: WeightSpec, image_size: int | None
) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    low, high = spec.range
    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    # In float32: the SavedModel's functions take nothing else, mixed precision or not.
    x = layers.Rescaling((high - low) / 255, low, dtype="float32", name="rescaling")(images)
    features = _layer(spec)(x)
    if isinstance(features, dict) and len(features) == 1:
        (features,) = features.values()
    if isinstance(features, dict) or len(features.shape) != 2 or features.shape[1] is None:
        raise WeightsError(
            f"the SavedModel {spec.source} gives {features}, not one vector an image; use one of "
            "feature vectors, or with a pretrained head one of logits"
        )
    return features, images


def _layer(spec: WeightSpec) -> layers.Layer:
    """Make the SavedModel a layer, whose variables are trained, saved and exported as any."""
    settings = {"trainable": spec.trainable, "dtype": "float32", "name": "backbone"}
    path = str(spec.fetch())
    try:
        # What TF-Hub's image modules are called by.
        return layers.TFSMLayer(path, call_endpoint="__call__", **settings)
    except ValueError:  # there is no such function
        try:
            return layers.TFSMLayer(path, call_endpoint="serving_default", **settings)
        except ValueError as error:
            raise WeightsError(f"the SavedModel {spec.source} cannot be called: {error}") from error
