"""What a metric was trained on, how good it is and what its scores mean, for people; and which metrics there are."""

import json

from jiqa.inference import heads
from jiqa.inference.metric import CARD, how_to_get, shipped
from jiqa.methods import method_class, names

OF_NETWORK = {"input": "sees", "trained_on": "trained on", "licence": "licence", "recipe": "recipe"}


def list_models() -> dict:
  """What `jiqa.load` can be asked for by name: weights that come with jiqa, and methods, which need weights.

  Returns:
    dict from name to a dict of plain values: 'predicts', 'trained_on', 'tested_on' and 'srcc' (on images that it has
    not seen), 'megabytes', 'licence' and 'how_to_get'; what is not known is missing.
  """
  models = {}
  for name, folder in shipped().items():
    card = json.loads((folder / CARD).read_text())
    head = next((heads.read(file).card for file in heads.beside(folder).values()), card.get("test", {}))
    test = head.get("test", head)
    models[name] = {
      "predicts": _predicts(card["method"], head.get("regressor") and head["range"]), "trained_on": card["trained_on"],
      "srcc": round(test["srcc"], 3),
      "tested_on": f"{test['images']} images of {head['database']} ({head['protocol']} test part)",
      "megabytes": round(sum(file.stat().st_size for file in folder.iterdir()) / 1e6, 1), "licence": card["licence"],
      "how_to_get": f"comes with jiqa: jiqa.load({name!r})",
    }  # fmt: skip
  return models | {name: {"predicts": _predicts(name), "how_to_get": how_to_get(name)} for name in names()}


def _predicts(name, of_head=None):
  method = method_class(name)
  scale = of_head or method.score_range
  scale = "{:g} to {:g}".format(*scale) if scale else "on the scale of its human scores"
  return ", ".join([f"score {scale}", *method.classes])


def as_text(card):
  """The card of a metric, see `metric.describe`, as lines of text; all of it is there with --json."""
  score = card["score"]
  of = f", {score['range'][0]:g} to {score['range'][1]:g}" if score["range"] else ""
  lines = [f"{card['method']} (jiqa {card['jiqa']}): {score['direction']}{of}"]
  for model in card["weights"]:
    lines.append(f"weights      {model['weights_sha256']} in {model['folder']}, {model['parameters']:,} parameters")
    lines += [f"{title:<13}{model[key]}" for key, title in OF_NETWORK.items() if key in model]
  head = score.get("head", {})
  if head:
    lines.append(f"head         {head.get('regressor', 'ridge')} fitted to {head.get('database', 'your ratings')}")
  lines += _tested(head.get("test") or score.get("test"), head or score.get("test"))
  lines += [f"- {note}" for network in card["weights"] for note in network.get("notes", ())]
  return "\n".join(lines)


def _tested(test, facts):
  if not test:
    return ["tested       not that this card knows of: measure it on images of your own (`jiqa evaluate`)"]
  images = f"{test.get('images', 'the')} images of {facts.get('database')} ({facts.get('protocol')} test part)"
  images = facts.get("tested", f"{images} that it has not seen")
  rmse = f", RMSE {test['rmse']:.3g}" if "rmse" in test else ""
  lines = [f"tested       {images}: SRCC {test['srcc']:.3f}, PLCC {test['plcc']:.3f}{rmse}"]
  if shares := test.get("pairs_ordered_alike_by_points"):
    pairs = ", ".join(f"{points} points: {share:.0%}" for points, share in shares.items())
    lines.append(f"means        people order two images alike whose scores differ by about {pairs} of the time")
  if "within_90_percent_intervals" in test:
    share = test["within_90_percent_intervals"]
    lines.append(f"uncertainty  score +- 1.645 score_std holds the human score of {share:.0%} of them (meant: 90%)")
  return lines
