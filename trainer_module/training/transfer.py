"""A pretrained network with a new head; the settings are in `trainer_module.recipes.transfer`."""

from __future__ import annotations

import socket
import textwrap
from collections.abc import Generator

import keras
from keras import layers

from trainer_module import augmentation
from trainer_module.models.backbones import preprocessing
from trainer_module.models.inference import InferenceModel
from trainer_module.models.vit import AdaptedNormalization
from trainer_module.recipes.base import EpochMetrics, Frozen, Phase, TrainingData
from trainer_module.recipes.transfer import ALPHAS, EPOCHS, IMAGENET, NONE, Config
from trainer_module.weights import WeightsError

BASE = "backbone"  # the layer that is the pretrained network
_FETCH_S = 30.0  # without an answer of the publisher of the weights
_SQUARES = (128, 160, 192, 224)  # pixels: what there are weights of MobileNet and MobileNetV2 for
_DEVIATION = (0.229, 0.224, 0.225)  # of ImageNet's colours, 0 to 1


def build_model(config: Config, image_size: int, num_classes: int) -> keras.Model:
    """Make the model, with its pretrained weights.

    Raises:
        WeightsError: they cannot be had, or are those of another network.
    """
    images = keras.Input((image_size, image_size, 3), dtype="uint8", name="image")
    x = preprocessing(config.backbone)(images)
    network = _network(config, image_size, None)
    published = _load(config, network)
    for layer in network.layers:
        # EfficientNet's; the other networks have constants.
        if isinstance(layer, layers.Normalization) and layer.input_mean is None:
            layer.__class__ = AdaptedNormalization
            if published:
                layer.adapt_variance.assign(layer.adapt_variance * _DEVIATION)
    x = InferenceModel(network.input, network.output, name=BASE)(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dropout(config.dropout, name="drop")(x)
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(images, logits, name="transfer")


def phases(
    config: Config, model: keras.Model, data: TrainingData
) -> Generator[Phase, EpochMetrics, None]:
    """Train the head on features computed once, then the upper layers along with it."""
    augment = augmentation.flip_turn_scale(flip=config.flip, rotation=config.rotation)
    total = data.epochs or EPOCHS
    first = min(config.head_epochs, total)
    if first:
        model.get_layer(BASE).trainable = False
        frozen = Frozen(*_split(model), views=config.views) if config.cache else None
        yield Phase(first, keras.optimizers.Adam(config.learning_rate), augment, frozen=frozen)
    if first == total:
        return
    _unfreeze(config, model)
    rmsprop = keras.optimizers.RMSprop(config.fine_tune_learning_rate)
    yield Phase(total - first, rmsprop, augment)


def most_trained(config: Config, model: keras.Model, epochs: int | None) -> None:
    """Make trainable what the second phase trains, or the first where there is no other."""
    if config.head_epochs >= (epochs or EPOCHS):
        model.get_layer(BASE).trainable = False
    else:
        _unfreeze(config, model)


def _unfreeze(config: Config, model: keras.Model) -> None:
    base = model.get_layer(BASE)
    base.trainable = True
    start = config.fine_tune_from
    if start is None:
        start = len(base.layers) * 100 // 154
    for place, layer in enumerate(base.layers):
        layer.trainable = place >= start


def _split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """`model` as two that share its weights: images to features, and features to logits."""
    features = model.get_layer("pool").output
    start = keras.Input(features.shape[1:], name="features")
    head = model.get_layer("logits")(model.get_layer("drop")(start))
    return keras.Model(model.input, features), keras.Model(start, head)


def _network(config: Config, size: int, weights: str | None) -> keras.Model:
    width = {"alpha": config.alpha} if config.backbone in ALPHAS else {}
    make = getattr(keras.applications, config.backbone)
    return make(input_shape=(size, size, 3), include_top=False, weights=weights, **width)


def _load(config: Config, network: keras.Model) -> bool:
    """Set the weights, and return whether they are as published, by the layers of their network.

    With these, Keras has EfficientNet divide by the root of a deviation in a layer of its own, as
    the variance in them is another deviation.
    """
    if config.weights == NONE:
        return False

    name = config.backbone
    width = f", of alpha {config.alpha:g}" if name in ALPHAS else ""
    advice = (
        f"set train.hyperparameters.weights to a local .h5 or .keras file of {name} without its "
        f"top{width}{', or alpha to that of the file' if width else ''}"
    )
    # Keras sets no time limit for what it fetches.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_FETCH_S)
    source = None
    try:
        if config.weights == IMAGENET:
            size = network.input_shape[1]
            if name in ("MobileNet", "MobileNetV2") and size not in _SQUARES:
                size = 224
            source = _network(config, size, IMAGENET)
        elif config.weights.endswith(".keras"):
            source = keras.saving.load_model(config.weights, compile=False, safe_mode=True)
        else:
            network.load_weights(config.weights)
        if source:
            network.set_weights(source.get_weights())
    except Exception as error:  # urllib's, h5py's, zipfile's, and Keras's own, a bare Exception
        missing = isinstance(error, FileNotFoundError)
        text = "there is no such file" if missing else str(error)
        reason = textwrap.shorten(text, 200, placeholder=" ...")
        raise WeightsError(
            f"the weights {config.weights} cannot be loaded into {name}: {reason}; {advice}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
    return not source or len(source.layers) > len(network.layers)
