"""Data inside a page, in such a form that no text in it can end its script element or begin another."""

import json
import re
from typing import Any

# "<" ends a script element ("</script>") or hides its end ("<!--<script>"); ">" and "&" are escaped so that
# the data may stand anywhere in a page. U+2028 and U+2029 end a line in older JavaScript; a lone surrogate
# cannot be written as UTF-8. In JSON all of these stand in strings only.
_UNSAFE = re.compile("[<>&\u2028\u2029\x7f-\x9f\ud800-\udfff]")


def embedded(value: Any) -> str:
    """`value` as JSON for a `<script type="application/json">`."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
