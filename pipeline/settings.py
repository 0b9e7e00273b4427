"""The configuration's one typed tree: every setting with its type, range and default.

`pipeline.config` fills it from presets, a TOML file and the command line.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    model_validator,
)

from components import storage
from components.image_evaluator.bounds import Bounds
from components.image_example_gen import source_name
from components.image_example_gen.options import Options
from components.image_example_validator.findings import Policy
from components.model_registry import Registry, is_config_map, place_of
from components.redaction import ENV
from components.settings import Listed, Section
from components.storage.options import Options as StorageOptions
from trainer_module.settings import TrainConfig

LOCAL_RUNNER = "FnApiRunner"
# Of Beam's runners those that can do the work of the nodes. Beam also takes the path of a class.
RUNNERS = (
    *(LOCAL_RUNNER, "PortableRunner", "FlinkRunner", "SparkRunner", "DataflowRunner"),
    *("PrismRunner", "DirectRunner"),
)
_INSTALLED = ("EXTERNAL", "LOOPBACK", "PROCESS")  # environments whose workers have the code
BEAM_NODES = ("ImageExampleGen", "StatisticsGen", "Transform", "Evaluator")
BUILT_IN_SOURCES = (source_name.DIGITS,)


def is_unicode(text: str) -> bool:
    """Whether `text` has no byte that Python could not decode from the command line."""
    return not any("\ud800" <= char <= "\udfff" for char in text)


def _absolute_path(value: object) -> object:
    if value is None:
        return None
    if not isinstance(value, str | Path):
        raise ValueError("must be a path, in quotes")
    if not value:
        # An unset shell variable: the working directory is not what was meant.
        raise ValueError("must not be empty")
    if not is_unicode(str(value)):
        raise ValueError("must be UTF-8")
    try:
        return Path(value).expanduser().resolve()
    except (RuntimeError, ValueError) as error:  # a link to itself, ~nobody, a null character
        raise ValueError(f"is no usable path: {error}") from None


def _absolute_source(value: object) -> object:
    if not isinstance(value, str):
        return str(_absolute_path(value))
    if value.startswith(ENV):
        return value
    name = source_name.parse(value)
    if name.is_local:
        return name._replace(location=str(_absolute_path(name.location))).text
    if not is_unicode(value):
        raise ValueError("must be UTF-8")
    return value


def absolute_location(value: object) -> object:
    """A path or URI that nodes write to, as it is used. Raises ValueError for what cannot be."""
    if isinstance(value, str) and storage.is_uri(value):
        if not value.partition("://")[2].strip("/"):
            raise ValueError("must name a bucket after ://")
        return value.rstrip("/")
    path = _absolute_path(value)
    return None if path is None else str(path)


def _beam_option(value: str) -> str:
    if not value.startswith("--"):
        raise ValueError("must start with --")
    if value.partition("=")[0] == "--runner":
        raise ValueError("must not name the runner: set beam.runner")
    return value


def _beam_runner(value: str) -> str:
    if value in RUNNERS or re.fullmatch(r"(\w+\.)+\w+", value):
        return value
    near = difflib.get_close_matches(value, RUNNERS, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(f"is no runner of Beam; there are {', '.join(RUNNERS)}{meant}")


BeamOption = Annotated[str, AfterValidator(_beam_option)]
BeamRunner = Annotated[str, AfterValidator(_beam_runner)]


def _pattern(value: str) -> str:
    try:
        groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"is no regular expression: {error}") from None
    if value and not groups:
        raise ValueError("must have a group, in parentheses, that is the class")
    return value


# One instance each: the settings that hold a path are found by it.
PATH = BeforeValidator(_absolute_path)
SOURCE = BeforeValidator(_absolute_source)
LOCATION = BeforeValidator(absolute_location)  # a path or a URI such as gs://bucket/models


class DataConfig(Section):
    """Where the images come from and how they are split.

    Splits are shares of content-hash buckets: with 80, 20 and 0, eight images in ten train. An
    image stays in its split across runs and as data grows, until the shares change, and every class
    of two images is in train and in eval: see docs/how-to/own-images.md.
    """

    source: Annotated[str, SOURCE] = Field(
        default="digits",
        description="`digits`, a folder of class folders, a manifest, TFRecords or `tfds:NAME`; "
        "`env:NAME`: the value of an environment variable.",
    )
    train: int = Field(
        default=80, ge=1, le=10_000, description="Share of images that train the model."
    )
    eval: int = Field(
        default=20, ge=1, le=10_000, description="Share of images that judge the model."
    )
    test: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Share of images kept from both; 0 makes no such split.",
    )
    schema_file: Annotated[Path | None, PATH] = Field(
        default=None,
        description="A schema.pbtxt to validate against, instead of one inferred from train.",
    )

    depth: int = Field(
        default=1,
        ge=1,
        le=100,
        description="Depth of the folders that are classes, below data.source.",
    )
    layout: Literal["auto", "classes", "splits"] = Field(
        default="auto",
        description="Meaning of the folders in data.source: classes, splits with class folders in "
        "them, or decided by their names (auto).",
    )
    train_folder: str = Field(
        default="", description="Name pattern of the folders that are the train split."
    )
    eval_folder: str = Field(
        default="", description="Name pattern of the folders that are the eval split."
    )
    test_folder: str = Field(
        default="", description="Name pattern of the folders that are the test split."
    )
    name_pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        default="",
        description="Regular expression for whole file names; its first group is the class.",
    )
    ignore: Listed[str] = Field(
        default=(), description="Name patterns of files and folders to leave out."
    )
    similar_classes: Literal["stop", "keep"] = Field(
        default="stop",
        description="Stop at class names that look alike, such as Cat and cat, or keep them.",
    )
    image_feature: str = Field(
        default="", description="Feature of the image in tf.Examples; empty: the usual names."
    )
    label_feature: str = Field(
        default="", description="Feature of the class in tf.Examples; empty: the usual names."
    )
    spans: int = Field(
        default=1, ge=1, le=10_000, description="Number of latest spans to train on."
    )
    first_span: int | None = Field(
        default=None, ge=0, description="First span to train on, instead of the latest ones."
    )
    last_span: int | None = Field(
        default=None, ge=0, description="Last span to train on, instead of the latest ones."
    )
    held_out: Literal["window", "all"] = Field(
        default="window",
        description="Spans whose eval and test images are used: those trained on, or all up to "
        "the latest of them, so that models of different windows are judged alike.",
    )
    max_pixels: int = Field(
        default=Options.max_pixels,
        ge=1,
        le=2**31 - 1,
        description="Images of more pixels are quarantined.",
    )
    max_bad_fraction: float = Field(
        default=Options.max_bad_fraction,
        ge=0,
        le=1,
        description="Share of unusable files beyond which the run is stopped.",
    )
    # What the gate's test takes: of five images that are all right chance explains 1 / 2^5 = 3 %.
    min_eval: int = Field(
        default=5,
        ge=0,
        description="Images that the eval split must have outside its largest class; with fewer, "
        "a model that is always right cannot be told from chance, and the run is stopped.",
    )
    group_near_duplicates: bool = Field(
        default=Options.group_near_duplicates,
        description="Put images that look the same into the same split.",
    )

    @property
    def splits(self) -> dict[str, int]:
        """Shares by split name, without a split that has none."""
        shares = {"train": self.train, "eval": self.eval, "test": self.test}
        return {name: share for name, share in shares.items() if share}

    @property
    def options(self) -> Options:
        """What of this the ingest needs beside source and splits."""
        names = [field.name for field in dataclasses.fields(Options)]
        return Options(**{name: getattr(self, name) for name in names})

    @property
    def folder(self) -> Path | None:
        """The local folder or file that is read, without spans; None for anything not local."""
        name = source_name.parse(self.source)
        return Path(source_name.fixed_part(name.location)) if name.is_local else None


class ValidationConfig(Section, Policy):
    """Which findings about the data stop a run before training.

    A finding has a type, such as ENUM_TYPE_UNEXPECTED_STRING_VALUES (TFDV's names), CLASS_MISSING
    or CLASS_IMBALANCE, and a feature, such as image/class/text. Distances between distributions lie
    in 0..1; at 1 nothing is ever found.

    The defaults are above what chance does to some hundred images. The largest of ten random
    splits, of 500 flower photos, 1,500 of CIFAR-10 and the 1,797 digits: a fifth against the rest
    is 0.20, 0.03 and 0.03 apart in numbers and 0.15, 0.05 and 0.05 in labels; halves are 0.17, 0.02
    and 0.03 and 0.11, 0.04 and 0.04. Of 100 photos, a fifth is 0.38 and 0.22, and halves are 0.45
    and 0.18, so that so few can be found to differ by chance. Photos of 0.7 times the brightness
    are 0.33 from others, blurred ones (3 pixels) 0.41; a class cut to 30 % changes labels by 0.15
    to 0.18.
    """


class TransformConfig(Section):
    """Preprocessing of every image, the same in training, evaluation and serving.

    Size and interpolation have no default: each recipe's preset sets them.
    """

    image_size: int = Field(
        ge=1, le=4096, description="Height and width of the model's input in pixels."
    )
    train_size: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Height and width of the training images, for a recipe that crops them at "
        "random to image_size; unset: image_size.",
    )
    resize: Literal[
        "area",
        "bicubic",
        "bilinear",
        "gaussian",
        "lanczos3",
        "lanczos5",
        "mitchellcubic",
        "nearest",
    ] = Field(
        description="Interpolation; `area` averages where it shrinks, cheaply, and is bilinear "
        "where it enlarges."
    )
    antialias: bool = Field(
        default=True,
        description="Smooth before shrinking: all but `area` need it, and it doubles the cost.",
    )
    aspect: Literal["squeeze", "crop", "pad"] = Field(
        default="squeeze",
        description="How an image becomes square: by squeezing it, by cutting out the central "
        "square, or by padding it with black.",
    )
    crop_fraction: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Central part of each side that is kept, such as 0.875 for 224 of 256 pixels.",
    )


class EvaluateConfig(Section, Bounds):
    """The bounds that a model must keep to be blessed.

    Unset bounds are not checked. Where there is a blessed model already, a candidate that is less
    accurate on the same eval images is refused if chance does not explain it: see `significance`.
    """


class InfraValidationConfig(Section):
    """The trial of a candidate in a model server, before a push."""

    enabled: bool = Field(
        default=True,
        description="Try each candidate in a model server, and push it with warm-up requests.",
    )
    # TensorFlow Serving takes 1,000 warm-up requests, and each image makes two.
    examples: int = Field(
        default=8, ge=1, le=500, description="Number of eval images to try it with."
    )
    max_load_seconds: int = Field(
        default=300, ge=1, description="Seconds for the server to start and load the model."
    )


class SigningConfig(Section):
    """Signatures of pushed versions; `perennial serve --public-key` serves no others."""

    private_key: Annotated[Path | None, PATH] = Field(
        default=None,
        description="Elliptic private key, a PEM file without passphrase that only the pusher can "
        "read; unset: versions are not signed.",
    )
    public_key: Annotated[Path | None, PATH] = Field(
        default=None,
        description="The public key of the pair, with which each version is checked before it "
        "appears.",
    )

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.private_key is None) != (self.public_key is None):
            raise ValueError("private_key and public_key must be given together")
        return self


class PushConfig(Section):
    """Destination of blessed models."""

    directory: Annotated[str | None, LOCATION] = Field(
        default=None,
        description="Folder of numbered versions, or a URI such as gs://bucket/models/name; "
        "unset: <workspace>/serving/<name>.",
    )
    keep: int = Field(
        default=10,
        ge=1,
        description="Number of newest versions to keep, besides those being served.",
    )
    served_config: Annotated[str | None, LOCATION] = Field(
        default=None,
        description="Model configuration that names the served versions, also in a ConfigMap: "
        "configmap://NAMESPACE/NAME; unset: models.config beside push.directory.",
    )
    promote: Literal["none", "canary", "stable"] = Field(
        default="none",
        description="Label that the Pusher gives a version in the ConfigMap of served_config. The "
        "first version becomes stable, unless this is none.",
    )
    signing: SigningConfig = Field(default=SigningConfig(), description="Signed versions.")

    @model_validator(mode="after")
    def _served(self) -> Self:
        where = self.served_config or ""
        if is_config_map(where):
            place_of(where)
        elif self.promote != "none":
            raise ValueError(
                "promote needs served_config = configmap://NAMESPACE/NAME: of no other place is "
                "it known which servers follow it"
            )
        if is_config_map(self.directory or ""):
            raise ValueError("directory must be a folder or a URI, not a ConfigMap")
        return self


class StorageConfig(Section, StorageOptions):
    """How object stores are reached, and where nodes have copies of what is in them."""


class DriftConfig(Section):
    """When new images count as drifted from those that the baseline was trained on.

    Distances of labels and statistics lie in 0..1; with a limit of 1 nothing is ever found.
    """

    min_examples: int = Field(
        default=100, ge=1, description="Smallest number of new images to measure."
    )
    max_label_distance: float = Field(
        default=0.2, ge=0, le=1, description="L-infinity distance of the shares of classes."
    )
    max_statistics_distance: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Jensen-Shannon divergence of sizes, brightness and contrast.",
    )
    max_embedding_shift: float = Field(
        default=0.5,
        ge=0,
        description="Distance of the mean embeddings, in standard deviations of the reference.",
    )
    cooldown_days: float = Field(
        default=7.0, ge=0, description="Days after an alarm without another one."
    )
    retrains: bool = Field(
        default=False, description="Retrain on drift, instead of reporting it only."
    )


class MonitorConfig(Section):
    """Recorded traffic, and how `perennial monitor` compares it with the data of the baseline.

    Each comparison is found where chance explains it with less than its share of false_alarms, and
    where it is larger than its limit: a change that matters to nobody is significant in much
    traffic.
    """

    logs: Annotated[Path, PATH] | None = Field(
        default=None, description="Folder of recorded traffic, of which gc removes what is old."
    )
    retention_days: float = Field(
        default=30.0, gt=0, description="Age from which gc removes recorded traffic."
    )
    window_days: float = Field(
        default=1.0, gt=0, description="Traffic that is compared at a time, up to now."
    )
    min_images: int = Field(
        default=100, ge=20, description="Different images below which traffic is too little."
    )
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=1,
        description="Share of undisturbed windows with a finding, at most, over all comparisons.",
    )
    min_effect: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Distance of two distributions that counts: Kolmogorov-Smirnov's of numbers, "
        "total variation of shares.",
    )
    max_unseen: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Share of images of a format or size unlike any of the baseline's data.",
    )
    max_disagreement: float = Field(
        default=0.2, ge=0, lt=1, description="Share of images in which two versions disagree."
    )
    max_accuracy_drop: float = Field(
        default=0.05, ge=0, le=1, description="Fall of the accuracy estimated from confidence."
    )


class ReasonConfig(Section):
    """Whether a finding of `perennial monitor` is a reason to retrain on what images are new."""

    retrains: bool = Field(
        default=False, description="Whether it is a reason to retrain, not only told."
    )
    cooldown_days: float = Field(
        default=7.0,
        ge=0,
        description="Days after it was a reason in which it is none, and after the webhook was "
        "told in which it is not told again.",
    )


class RetrainConfig(Section):
    """When `perennial retrain` retrains, and what follows."""

    min_new_examples: int = Field(
        default=1,
        ge=1,
        description="Number of new, changed and removed images that is a reason to retrain.",
    )
    max_age_days: float | None = Field(
        default=None,
        gt=0,
        description="Age of the baseline in days from which on one changed image is a reason to "
        "retrain; unset: none.",
    )
    max_removed: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the last training's images, or of one class, that may be "
        "missing; beyond it the retraining stops. 1: no limit.",
    )
    max_relabelled: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Largest share of the last training's images that may have changed to another "
        "class; beyond it, or half of a class, the retraining stops. 1: no limit.",
    )
    promote: Literal["none", "canary", "stable"] = Field(
        default="canary",
        description="Label of a pushed version. The first version becomes stable, unless this is "
        "none.",
    )
    servers: Listed[str] = Field(
        default=(),
        description="gRPC addresses, HOST:PORT, of servers that must follow a promotion.",
    )
    drift: DriftConfig = Field(default=DriftConfig(), description="Drift of new images.")
    traffic: ReasonConfig = Field(default=ReasonConfig(), description="Drift of the traffic.")
    accuracy: ReasonConfig = Field(
        default=ReasonConfig(), description="A fall of the accuracy estimated from the traffic."
    )


class NotifyConfig(Section):
    """Messages about scheduled retrainings."""

    webhook_env: str = Field(
        default="PERENNIAL_WEBHOOK",
        min_length=1,
        description="Environment variable with the URL of a webhook that takes Slack's JSON.",
    )
    on: Listed[Literal["blessed", "rejected", "failed", "drift"]] = Field(
        default=("blessed", "rejected", "failed", "drift"), description="Outcomes to report."
    )


class BeamNode(Section):
    """Beam's settings for one node, instead of those for all."""

    runner: BeamRunner | None = Field(default=None, description="Unset: beam.runner.")
    args: Listed[BeamOption] | None = Field(
        default=None,
        description="Beam options; unset: beam.args, or none where the runner is another.",
    )


class BeamConfig(Section):
    """Beam's settings for ImageExampleGen, StatisticsGen, Transform and Evaluator.

    To run their work elsewhere, name a job server; the DAG and the cache stay as they are. Data and
    workspace must be on storage that the workers share, and workers must have this version of the
    project: `perennial worker`, in its image. See the README.
    """

    # Named always: Beam's own choice of a runner may download a Go binary.
    runner: BeamRunner = Field(
        default=LOCAL_RUNNER,
        description="Beam's runner: FnApiRunner here, PortableRunner for a job server of Flink, "
        f"Spark or Prism, or one of {', '.join(RUNNERS[2:])}.",
    )
    args: Listed[BeamOption] = Field(
        default=(), description="Further Beam options, each as `--option=value`."
    )
    nodes: Mapping[str, BeamNode] = Field(
        default={}, description="Settings of single nodes, by their ids."
    )

    @model_validator(mode="after")
    def _knows_its_nodes(self) -> Self:
        if unknown := sorted(self.nodes.keys() - set(BEAM_NODES)):
            raise ValueError(
                f"nodes.{unknown[0]}: no such node uses Beam; there are {', '.join(BEAM_NODES)}"
            )
        return self

    @property
    def jobs(self) -> dict[str, BeamJob]:
        """What each node with a Beam pipeline gives to Beam, by its id."""
        return {node: self._job(self.nodes.get(node, BeamNode()), node) for node in BEAM_NODES}

    def _job(self, own: BeamNode, node: str) -> BeamJob:
        runner = own.runner or self.runner
        inherited = self.args if runner == self.runner else ()
        args = inherited if own.args is None else own.args
        is_own = own.runner is not None or own.args is not None
        return BeamJob(f"beam.nodes.{node}" if is_own else "beam", runner, args)


@dataclasses.dataclass(frozen=True)
class BeamJob:
    """What Beam is given. key: the table of settings that it comes from."""

    key: str
    runner: str
    args: tuple[str, ...]

    @property
    def options(self) -> dict[str, str]:
        """The values of `args`, by name; "" for one without."""
        pairs = (arg.partition("=") for arg in self.args)
        return {name.removeprefix("--").replace("-", "_"): value for name, _, value in pairs}

    @property
    def is_elsewhere(self) -> bool:
        """Whether the work is done by other processes than those that Beam starts here."""
        return self.runner not in (LOCAL_RUNNER, "DirectRunner")

    @property
    def pipeline_args(self) -> list[str]:
        """The command-line arguments for Beam, runner included."""
        args = [f"--runner={self.runner}", *self.args]
        here = self.runner == LOCAL_RUNNER or self.options.get("environment_type") in _INSTALLED
        if here and "sdk_container_image" not in self.options:
            # Nothing reads it. Without it TFX packs itself up for remote workers in every Beam
            # node, which takes seconds each time, and leaves the package in the temporary folder.
            args.append("--sdk_container_image=none")
        return args


def _kubernetes_resource(value: str) -> str:
    if re.fullmatch(r"[A-Z0-9_]+", value):
        raise ValueError(
            "is a name of Vertex AI: Kubernetes wants the resource of the device plugin, such as "
            "nvidia.com/gpu, and the kind of GPU in node_selector"
        )
    if not re.fullmatch(r"[a-z0-9.-]+/[A-Za-z0-9._-]+", value):
        raise ValueError("must be a resource of a device plugin, such as nvidia.com/gpu")
    return value


def _pinned_image(value: str) -> str:
    if "@sha256:" in value or ":" in value.rpartition("/")[2]:
        return value
    raise ValueError(
        "must have a tag or a digest, such as registry/name:1.2.0: else what runs changes"
    )


_Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|[kMGTP]|[KMGTP]i)?$")]
_KubernetesName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$", max_length=253)]
_EnvName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_Folder = Annotated[str, Field(pattern=r"^/.+")]
_Image = Annotated[str, Field(min_length=1), AfterValidator(_pinned_image)]


class Toleration(Section):
    """A taint that pods of a pool accept, as in a pod's `tolerations`."""

    key: str = Field(min_length=1, description="The taint's key.")
    value: str | None = Field(default=None, description="The taint's value; unset: any.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] = Field(
        default="NoSchedule", description="The taint's effect."
    )


class Secret(Section):
    """One key of a Kubernetes Secret, as an environment variable, or all of them as files."""

    name: _KubernetesName = Field(description="The Secret.")
    key: str | None = Field(default=None, description="The key that becomes `env`.")
    env: _EnvName | None = Field(default=None, description="The environment variable.")
    path: _Folder | None = Field(default=None, description="Folder that all keys are files in.")

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if (self.path is None) == (self.env is None) or (self.key is None) != (self.env is None):
            raise ValueError("must have either key and env, or path")
        return self


class Volume(Section):
    """A persistent volume claim."""

    claim: _KubernetesName = Field(description="The PersistentVolumeClaim.")
    path: _Folder = Field(description="Where it is mounted.")


class Spot(Section):
    """Spot machines, which the cluster may take away at any time."""

    node_selector: Mapping[str, str] = Field(default={}, description="Their labels.")
    tolerations: Listed[Toleration] = Field(default=(), description="Their taints.")


class Surroundings(Section):
    """Environment, secrets and volumes of pods: of all, or of those of one pool."""

    env: Mapping[_EnvName, str] = Field(default={}, description="Environment variables.")
    secrets: Listed[Secret] = Field(default=(), description="Secrets, by reference only.")
    volumes: Listed[Volume] = Field(default=(), description="Persistent volumes.")
    image_pull_secrets: Listed[_KubernetesName] = Field(
        default=(), description="Secrets of the registry."
    )


class Pool(Surroundings):
    """Machines and resources of pods.

    Quantities are Kubernetes' own, such as 500m or 8Gi.
    """

    image: _Image | None = Field(
        default=None, description="Image of its pods; unset: kubeflow.image."
    )
    image_pull: Literal["Always", "IfNotPresent", "Never"] = Field(
        default="IfNotPresent", description="Pull policy of the image."
    )
    cpu: _Quantity = Field(default="2", description="Reserved CPUs.")
    cpu_limit: _Quantity | None = Field(default=None, description="CPUs at most; unset: no limit.")
    memory: _Quantity = Field(default="8Gi", description="Reserved memory.")
    memory_limit: _Quantity | None = Field(
        default=None, description="Memory at most; unset: `memory`."
    )
    accelerator: Annotated[str, AfterValidator(_kubernetes_resource)] | None = Field(
        default=None, description="Resource of the device plugin, such as nvidia.com/gpu."
    )
    accelerator_limit: int | None = Field(
        default=None, ge=1, le=16, description="Number of accelerators per pod."
    )
    node_selector: Mapping[str, str] = Field(default={}, description="Labels of the machines.")
    tolerations: Listed[Toleration] = Field(default=(), description="Taints of the machines.")
    spot: bool = Field(default=False, description="Use the machines of kubeflow.spot.")
    shared_memory: _Quantity | None = Field(
        default=None, description="Size of /dev/shm; it counts as memory of the pod."
    )
    timeout: int | None = Field(
        default=None,
        ge=1,
        description="Seconds after which a pod that has a machine is given up; unset: never. For "
        "one that waits there is kubeflow.start_timeout.",
    )
    retries: int = Field(
        default=2,
        ge=0,
        le=100,
        description="Further tries after an accident: a pod that was deleted or lost its machine, "
        "a process that a signal ended, a database that went away. Bad settings, bad data and a "
        "model that is not blessed are none.",
    )
    retry_delay: int = Field(default=60, ge=0, le=3600, description="Seconds before the first one.")
    # Argo takes no fractions.
    retry_factor: int = Field(
        default=2, ge=1, le=10, description="Factor by which the delay grows from try to try."
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if self.accelerator and self.accelerator_limit is None:
            raise ValueError("accelerator needs an accelerator_limit: how many each pod gets")
        if self.accelerator_limit and self.accelerator is None:
            raise ValueError("accelerator_limit needs an accelerator, such as nvidia.com/gpu")
        return self


class MetadataConfig(Section):
    """The ML Metadata database that the nodes of all runs share.

    Pods get it through environment variables; user and password come from a Secret.
    """

    kind: Literal["mysql", "postgresql", "sqlite"] = Field(
        default="mysql",
        description="mysql is MariaDB too; sqlite only where one node runs at a time.",
    )
    host: str = Field(default="perennial-metadata", min_length=1, description="Host of the server.")
    port: int | None = Field(
        default=None, ge=1, le=65535, description="Unset: 3306 of MySQL, 5432 of PostgreSQL."
    )
    database: str = Field(default="perennial", min_length=1, description="Name of the database.")
    tls: bool = Field(default=False, description="Encrypt the connection; mysql only.")
    secret: _KubernetesName = Field(
        default="perennial-metadata", description="Secret with the keys `user` and `password`."
    )
    path: _Folder | None = Field(default=None, description="File of sqlite.")

    @model_validator(mode="after")
    def _has_a_place(self) -> Self:
        if (self.kind == "sqlite") != (self.path is not None):
            raise ValueError("path is the file of kind sqlite, and of that only")
        return self


DEFAULT_POOL = "cpu"
Environment = Literal["gke", "eks", "aks", "bare"]
ENVIRONMENTS: tuple[Environment, ...] = get_args(Environment)


def _with_default_pool(pools: object) -> object:
    return {DEFAULT_POOL: {}, **pools} if isinstance(pools, Mapping) else pools


class KubeflowConfig(Surroundings):
    """How `perennial compile` turns the DAG into a pipeline of Kubeflow.

    A node runs in a pod of the pool that `nodes` names, or of the pool `cpu`. A pool's settings add
    to those for all pods.
    """

    environment: Environment | None = Field(
        default=None,
        description="Presets of pools by the labels of GKE, EKS, AKS or NVIDIA's device plugin.",
    )
    image: _Image | None = Field(
        default=None, description="Image with this project, with a tag or a digest."
    )
    pipeline_root: Annotated[str, LOCATION] | None = Field(
        default=None,
        description="URI or mounted folder for what nodes write, such as s3://bucket or gs://bucket.",
    )
    run_as_user: int | None = Field(
        default=None, ge=1, description="User id of the pods; unset: the image's."
    )
    parameters: Listed[str] = Field(
        default=(
            "train.epochs",
            "train.batch_size",
            "train.seed",
            "train.hyperparameters.learning_rate",
            "evaluate.min_accuracy",
        ),
        description="Settings that become pipeline parameters, besides data, span and recipe.",
    )
    metadata: MetadataConfig = Field(default=MetadataConfig(), description="ML Metadata.")
    grouping: Literal["stages", "nodes"] = Field(
        default="stages",
        description="Pods: stages makes one of data, the Trainer and the judgement of its model "
        "each, and more where nodes of a stage name different pools; nodes makes one of each node. "
        "Retries and timeout are those of the pod.",
    )
    nodes: Mapping[str, str] = Field(
        default={},
        description="Pools by node of the DAG, such as {Trainer = 'gpu-l4'}; added to those of the "
        "environment's preset.",
    )
    pools: Annotated[
        Mapping[Annotated[str, Field(pattern=r"^[a-z0-9-]+$")], Pool],
        BeforeValidator(_with_default_pool),
    ] = Field(default={}, description="Pools by name; there always is one called cpu.")
    spot: Spot | None = Field(default=None, description="Labels and taints of spot machines.")
    autoscaled: bool = Field(
        default=False,
        description="Machines are created on demand: a pool may have none at the moment.",
    )
    run_timeout: int = Field(
        default=86_400,
        ge=0,
        le=2**31 - 1,
        description="Seconds after which Kubeflow ends a run, whatever its pods wait for; 0: "
        "never, and for Kubeflow before 2.17, which does not know this.",
    )
    start_timeout: int = Field(
        default=3600,
        ge=60,
        description="Seconds that a pod may wait to start, for a machine, its image or a volume, "
        "until `perennial watch` or `perennial submit --wait` ends its run.",
    )

    @model_validator(mode="after")
    def _knows_its_pools(self) -> Self:
        for node, pool in self.nodes.items():
            if pool not in self.pools:
                raise ValueError(
                    f"nodes.{node} = {pool!r}: no such pool; there are {', '.join(self.pools)}"
                )
        for name, each in self.pools.items():
            if each.spot and self.spot is None:
                raise ValueError(f"pools.{name}.spot needs kubeflow.spot: labels of such machines")
        return self


class Config(Section):
    """All settings of a run. The class of `train.hyperparameters` follows the recipe."""

    name: str = Field(
        default="perennial",
        pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$",
        max_length=63,
        description="Name of pipeline and model: lower-case letters, digits and hyphens.",
    )
    workspace: Annotated[Path, PATH] = Field(
        default=Path("workspace"),
        description="Folder for metadata, artifacts, logs and pushed models.",
    )
    node_timeout: int | None = Field(
        default=None,
        ge=1,
        description="Seconds after which a node is stopped; unset: never.",
    )
    data: DataConfig = Field(default=DataConfig(), description="Images and splits.")
    validation: ValidationConfig = Field(
        default=ValidationConfig(), description="The gate before training."
    )
    transform: TransformConfig = Field(description="Preprocessing.")
    train: TrainConfig = Field(description="Training.")
    evaluate: EvaluateConfig = Field(
        default=EvaluateConfig(), description="The gate before a push."
    )
    infra_validation: InfraValidationConfig = Field(
        default=InfraValidationConfig(), description="The trial in a model server."
    )
    push: PushConfig = Field(default=PushConfig(), description="Destination of blessed models.")
    storage: StorageConfig = Field(
        default=StorageConfig(), description="Object stores: s3:// and gs://."
    )
    retrain: RetrainConfig = Field(default=RetrainConfig(), description="Scheduled retraining.")
    monitor: MonitorConfig = Field(default=MonitorConfig(), description="Recorded traffic.")
    notify: NotifyConfig = Field(default=NotifyConfig(), description="Messages of retrainings.")
    beam: BeamConfig = Field(default=BeamConfig(), description="Data processing.")
    kubeflow: KubeflowConfig = Field(
        default=KubeflowConfig(), description="The DAG on Kubeflow Pipelines."
    )

    @property
    def push_directory(self) -> str:
        """Path or URI of what holds the numbered versions of the pushed model."""
        return self.push.directory or str(self.workspace / "serving" / self.name)

    @property
    def registry(self) -> Registry:
        """The versions of the pushed model, and what is served of them."""
        key = self.push.signing.public_key
        return Registry(self.push_directory, self.push.served_config or "", self.name, key)
