"""`jiqa card`: what a metric was trained on, how good it is and what its scores mean, for people."""


def as_text(card):
  """The card of a metric, see `metric.describe`, as lines of text; all of it is there with --json."""
  score, lines = card["score"], []
  of = f", {score['range'][0]:g} to {score['range'][1]:g}" if score["range"] else ""
  lines.append(f"{card['method']} (jiqa {card['jiqa']}): {score['direction']}{of}")
  for network in card["weights"]:
    lines += [
      f"weights      {network['weights_sha256']} in {network['folder']}, {network.get('parameters', 0):,} parameters",
      f"sees         {network['input']}",
      f"trained on   {network['trained_on']}",
      f"licence      {network['licence']}",
    ]
    lines += [f"recipe       {network['recipe']}"] if "recipe" in network else []
  head = score.get("head", {})
  if head:
    lines.append(f"head         {head.get('regressor', 'ridge')} fitted to {head.get('database', 'your ratings')}")
  lines += _tested(head.get("test") or score.get("test"), head or score.get("test"))
  lines += [f"- {note}" for network in card["weights"] for note in network.get("notes", ())]
  return "\n".join(lines)


def _tested(test, facts):
  if not test:
    return ["tested       not that this card knows of: measure it on images of your own (`jiqa evaluate`)"]
  lines = [
    f"tested       {test['images']} images of {facts.get('database')} ({facts.get('protocol')} test part) that it has "
    f"not seen: SRCC {test['srcc']:.3f}, PLCC {test['plcc']:.3f}, RMSE {test['rmse']:.3g}"
  ]
  shares = test.get("pairs_ordered_alike_by_points", {})
  if shares:
    pairs = ", ".join(f"{points} points: {share:.0%}" for points, share in shares.items())
    lines.append(f"means        people order two images alike whose scores differ by about {pairs} of the time")
  if "within_90_percent_intervals" in test:
    share = test["within_90_percent_intervals"]
    lines.append(f"uncertainty  score +- 1.645 score_std holds the human score of {share:.0%} of them (meant: 90%)")
  return lines
