"""What the site needs beside the pages: links that leave docs/ lead to a page of the site instead."""

import re
from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links to examples/NAME.py at the page of the examples."""
    return re.sub(r"\]\(\.\./examples/(\w+)\.py\)", r"](examples.md#\1)", markdown)
