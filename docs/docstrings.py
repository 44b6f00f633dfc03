"""For the API reference: a docstring's `Example:` is what griffe calls `Examples:`, a section of code."""

import griffe


class Example(griffe.Extension):
  def on_object(self, *, obj, **_):
    if obj.docstring:
      obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
