"""The card: what a user must know of a metric before trusting its numbers."""

import jiqa

NO_LICENCE = "that of the images it was trained on; its own card names none"
NOT_SHOWN = ("config", "left_out", "ignored")


def describe(models, head, head_file):
  """The card of a metric.

  Args:
    models: list of Model.
    head: Head or None.
    head_file: pathlib.Path or None.

  Returns:
    dict of plain values: 'method'; 'weights', a dict for every network: 'folder', 'trained_on', 'input', 'licence' and
    what its folder says; 'score': 'direction', 'range', and 'head' with what it was fitted to and how good it is on
    images that it has not seen.
  """
  score_range = models[0].method.score_range if head is None else head.card.get("range")
  score = {"direction": "higher is better", "range": list(score_range) if score_range else None}
  if head is not None:
    score["head"] = {"file": head_file.name, **head.card}
  return {
    "method": "+".join(model.name for model in models),
    "weights": [_network(model) for model in models],
    "score": score,
    "jiqa": jiqa.__version__,
  }


def _network(model):
  converted = "source" in model.card
  return {
    "folder": str(model.folder),
    "method": model.name,
    "trained_on": f"see the paper; converted from {model.card['file']}" if converted else trained_on(model.config),
    "input": model.method.input.format_map(model.config),
    "licence": NO_LICENCE,
    **{key: value for key, value in model.card.items() if key not in NOT_SHOWN},
  }


def trained_on(config):
  """What a config trains on, in words.

  Args:
    config: dict, of a run.

  Returns:
    str.

  Example:
    >>> trained_on({"split": -1, "data": [{"name": "biq2021", "protocol": "official"}, {"name": "image_folder/crops"}]})
    'biq2021 without the test images of its official splits, image_folder/crops; without human scores'
  """
  split, names = config.get("split", -1), []
  for entry in config.get("data", ()):
    protocol, part = entry.get("protocol"), ""
    if protocol and split < 0:
      part = f" without the test images of its {protocol} splits"
    elif protocol:
      part = f" (training part of split {split + 1} of {protocol})"
    names.append(entry["name"] + part)
  return f"{', '.join(names) or 'unknown'}; {'without human scores' if split < 0 else 'with human scores'}"
