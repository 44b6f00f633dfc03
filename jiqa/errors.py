"""The one exception whose message is meant for the user."""


class UserError(Exception):
  """Something the user can put right: a missing file, a bad value, a wrong label.

  The message names the file or key, the value found, what was expected and what to do next. `launch.py` and `jiqa`
  print it without a traceback and exit with status 2.
  """
