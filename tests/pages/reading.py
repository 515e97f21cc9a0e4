"""What a page holds, read from its file."""

from __future__ import annotations

import json
import re
from typing import Any


def page_data(text: str) -> dict[str, Any]:
    """The data of a page, which its script draws."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    return json.loads(data)  # type: ignore[no-any-return]
