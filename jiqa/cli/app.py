"""The root of the `jiqa` command, and the options that its subcommands share."""

import os
from typing import Annotated

import typer
from typer import Option

import jiqa

# Options that several subcommands share.
Model = Annotated[str, Option("--model", help="a name that `jiqa models` lists; default what the weights are of")]
Weights = Annotated[list[str], Option("--weights", help="folder of weights or workdir of a run; repeat for several")]
HeadFile = Annotated[str, Option("--head", help="head of `jiqa fit`; default the one beside the weights")]
Name = Annotated[str, Option("--name", help="column of image names; default image_name, path or Image Name")]
Overwrite = Annotated[bool, Option("--overwrite", help="keep nothing of what --out holds already")]
Keep = Annotated[str, Option("--keep", help="of shards, columns and sidecars to carry along: url,txt")]
Sandbox = Annotated[bool, Option("--sandbox", help="decode in processes with limits, for files of strangers")]
DataDir = Annotated[str, Option("--data-dir", help="default $TFDS_DATA_DIR or ~/tensorflow_datasets")]


def _use(device):
  os.environ.update({"JAX_PLATFORMS": device} if device else {})  # read when jax is imported


Device = Annotated[str, Option("--device", callback=_use, help="cpu, gpu or tpu; default the best there is")]
app = typer.Typer(
  no_args_is_help=True, pretty_exceptions_enable=False,
  context_settings={"token_normalize_func": lambda name: name.replace("_", "-")},  # --data_dir is --data-dir
)  # fmt: skip


def _print_version(asked):
  if asked:
    print(f"jiqa {jiqa.__version__}")
    raise typer.Exit


@app.callback()
def root(version: bool = Option(False, "--version", callback=_print_version, is_eager=True, help="print it")):
  """No-reference image quality assessment in JAX."""
