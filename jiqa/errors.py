"""The one exception whose message is meant for the user."""

import textwrap


def brief(error):
  """What an exception of a library says, on one line of at most 300 characters."""
  return textwrap.shorten(str(error), 300, placeholder=" ...") or type(error).__name__


def not_installed(package):
  """What to do about a package that scoring does not need, in a checkout and with a wheel."""
  extras = "evaluate" if package in ("matplotlib", "pandas", "threadpoolctl") else "train,evaluate"
  wheel = f"jiqa[{extras}] @ file:///PATH/TO/jiqa-VERSION-py3-none-any.whl"
  return f"{package} is not installed: in a checkout `pip install -e '.[{extras}]'`, else `pip install '{wheel}'`"


class UserError(Exception):
  """Something the user can put right: a missing file, a bad value, a wrong label.

  The message names the file or key, the value found, what was expected and what to do next. `launch.py` and `jiqa`
  print it without a traceback and exit with status 2.
  """
