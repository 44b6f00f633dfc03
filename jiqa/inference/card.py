"""The card: what a user must know of a metric before trusting its numbers."""

import jiqa

INPUT = {
  "reiqa": "RGB of any size, at full and at half scale, neither cropped nor brought to a common size",
  "reiqa_content": "RGB of any size, at full and at half scale, neither cropped nor brought to a common size",
  "liqe": "RGB; {test_crops} crops of {crop} pixels, their answers averaged",
  "lml": "RGB; {test_crops} crops of {crop} pixels, their scores averaged",
}
RANGES = {"liqe": [1.0, 5.0]}
NO_LICENCE = "that of the images it was trained on; its own card names none"


def describe(models, head, head_file):
  """The card of a metric.

  Args:
    models: list of Model.
    head: Head or None.
    head_file: pathlib.Path or None.

  Returns:
    dict of plain values: 'method'; 'weights', a dict for every network: 'folder', 'trained_on', 'input', 'licence' and
    what its folder says of itself; 'score': 'direction', 'range', and 'head' with what it was fitted to and how good it
    is on images that it has not seen.
  """
  score = {"direction": "higher is better", "range": _range(models[0], head)}
  if head is not None:
    score["head"] = {"file": head_file.name, **head.card}
  return {
    "method": "+".join(model.name for model in models),
    "weights": [_network(model) for model in models],
    "score": score,
    "jiqa": jiqa.__version__,
  }


def _network(model):
  own = {key: value for key, value in model.card.items() if key not in ("config", "left_out", "ignored")}
  return {
    "folder": str(model.folder),
    "method": model.name,
    "trained_on": trained_on(model.config)
    if "source" not in own
    else f"see the paper; converted from {own.get('file')}",
    "input": INPUT.get(model.name, "RGB").format_map(model.config),
    "licence": NO_LICENCE,
    **own,
  }


def _range(model, head):
  """The range of the score as far as it is known, or None."""
  if head is not None:
    return head.card.get("range")
  if model.name in RANGES:
    return RANGES[model.name]
  return list(model.config.get("targets") or ()) or None


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
    kept_out = f"the test images of its {entry.get('protocol')} splits"
    part = f"training part of split {split + 1} of {entry.get('protocol')}"
    names.append(
      entry["name"] + ("" if not entry.get("protocol") else f" without {kept_out}" if split < 0 else f" ({part})")
    )
  return f"{', '.join(names) or 'unknown'}; {'without human scores' if split < 0 else 'with human scores'}"
