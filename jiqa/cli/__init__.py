"""The `jiqa` command. Each subcommand imports what it needs when it runs, so that `jiqa --help` is instant."""

import errno
import sys

from jiqa.cli import data, models, runs, scoring  # noqa: F401 they register their subcommands
from jiqa.cli.app import app
from jiqa.errors import UserError, not_installed


def main():
  """Runs the command; a `UserError` is printed without a traceback and exits with status 2."""
  try:
    app()
  except UserError as error:
    print(f"jiqa: {error}", file=sys.stderr)
    sys.exit(2)
  except OSError as error:
    if error.filename is None and error.errno != errno.ENOSPC:  # of no file of the user's
      raise
    print(f"jiqa: {error.filename or 'a file'}: cannot be read or written ({error.strerror})", file=sys.stderr)
    sys.exit(2)
  except ModuleNotFoundError as error:
    if (error.name or "jiqa").startswith("jiqa"):
      raise
    print(f"jiqa: {not_installed(error.name)}", file=sys.stderr)
    sys.exit(2)
