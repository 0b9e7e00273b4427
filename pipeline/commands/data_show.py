"""`perennial data show`: a page of samples, before and after augmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.wording import counted
from pipeline.commands.files import write
from pipeline.commands.options import DataOptions, RecipeOptions, SettingsOptions, with_options


@with_options(images=DataOptions, recipe=RecipeOptions, common=SettingsOptions)
def show(
    output: Annotated[Path, typer.Option(metavar="FILE", help="Page to write.")] = Path(
        "samples.html"
    ),
    per_class: Annotated[int, typer.Option(min=1, max=100, help="Images per class.")] = 8,
    variants: Annotated[
        int, typer.Option(min=1, max=20, help="Augmented versions of each image.")
    ] = 2,
    *,
    images: DataOptions,
    recipe: RecipeOptions,
    common: SettingsOptions,
) -> None:
    """Write a page with samples of every class, before and after the recipe's augmentation."""
    config = common.load(images, recipe).config

    from pipeline.partial import run_nodes

    with run_nodes(
        config, ("ImageExampleGen",), common.log_format.resolved, check_all=True
    ) as outputs:
        # Within, where what TensorFlow prints goes to the log.
        from pipeline.report import samples

        (examples,) = outputs["ImageExampleGen"]["examples"]
        classes = list(samples.collect(config, examples.uri, per_class, variants))
    write(output, samples.render(config, classes))
    shown = counted(sum(len(each.samples) for each in classes), "image")
    print(f"{output}: {shown}; open it in a browser")
