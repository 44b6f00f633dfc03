"""The one exception whose message is meant for the user."""

# Of a package that scoring does not need; works in a checkout and with a wheel.
INSTALL = (
  "Install what training and evaluation need: in a checkout `pip install -r requirements.txt`, else "
  "`pip install 'jiqa[train,evaluate] @ file:///PATH/TO/jiqa-VERSION-py3-none-any.whl'`"
)


class UserError(Exception):
  """Something the user can put right: a missing file, a bad value, a wrong label.

  The message names the file or key, the value found, what was expected and what to do next. `launch.py` and `jiqa`
  print it without a traceback and exit with status 2.
  """
