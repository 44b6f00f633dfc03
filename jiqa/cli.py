"""The `jiqa` command. Each subcommand imports what it needs when it runs, so that `jiqa --help` is instant."""

import sys

import typer

from jiqa.errors import UserError

app = typer.Typer(help=__doc__.split("\n")[0], no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def root():
  """No-reference image quality assessment in JAX."""


def main():
  """Runs the command; a `UserError` is printed without a traceback and exits with status 2."""
  try:
    app()
  except UserError as error:
    print(f"jiqa: {error}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
  main()
