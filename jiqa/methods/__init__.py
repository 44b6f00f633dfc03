"""The methods by the name a config gives them."""

from jiqa.methods.reiqa import ReIQA

METHODS = {"reiqa": ReIQA}
