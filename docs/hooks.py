"""What the site needs beside its pages: links that leave docs/, and docstrings as the reference can show them."""

import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import griffe

ROOT = Path(__file__).parent.parent
SEVERAL = re.compile(r"^( +)(\w+(?:, \w+)+): (.*(?:\n\1 +\S.*)*)", flags=re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show CONTRIBUTING.md, and point links to examples/NAME.py at the page of the examples."""
    if page.file.src_uri == "contributing.md":
        return (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](examples.md#\1)", markdown)


def one_by_one(docstring: str) -> str:
    """Describe names separately that a docstring describes together: "kept, dropped: candidates, best first"."""

    def separate(found: re.Match[str]) -> str:
        indent, names, text = found.groups()
        return "\n".join(f"{indent}{name}: {text}" for name in names.split(", "))

    return SEVERAL.sub(separate, docstring)


class Docstrings(griffe.Extension):
    """Show names one by one, and a dataclass of settings with its sentences and defaults, as they are at run time."""

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Take docstring and defaults of a class that is decorated with `hyperpruning.settings.documented`."""
        if not any(str(decorator.value) == "documented" for decorator in cls.decorators):
            return
        found = getattr(importlib.import_module(cls.module.path), cls.name)
        if cls.docstring is not None:
            cls.docstring.value = inspect.getdoc(found) or ""
        for field in dataclasses.fields(found):
            if field.name in cls.members:  # an inherited one is shown where it is declared
                missing = field.default is dataclasses.MISSING
                cls.members[field.name].value = None if missing else repr(field.default)

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Split what a docstring says of several names at once."""
        if obj.docstring is not None:
            obj.docstring.value = one_by_one(obj.docstring.value)
