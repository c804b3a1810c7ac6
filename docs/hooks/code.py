"""Shows functions of the repository in a page: ``<!-- code: gpunet/backends/reference/pool.py max_pool2d_forward -->``.

The page itself holds no copy, and links to the file above the comment, for those who read the
Markdown. A file or a name that is not there is a warning, which fails the build.
"""

import ast
import logging
import re
import textwrap
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.plugins.code")
SHOWN = re.compile(r"^( *)<!-- code: (\S+)((?: [\w.]+)+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, /, *, page: Any, config: Any, **_: Any) -> str:
    """Replace each comment by a block with the source of what it names."""
    root = Path(config.docs_dir).parent

    def shown(match: re.Match[str]) -> str:
        indent, file, names = match.groups()
        try:
            text = (root / file).read_text(encoding="utf-8")
            parts = [source(text, name) for name in names.split()]
        except (OSError, LookupError) as error:
            LOG.warning("%s: %s cannot be shown: %s", page.file.src_path, match[0], error)
            return match[0]
        block = f'```python title="{file}"\n' + "\n\n".join(parts) + "\n```"
        return textwrap.indent(block, indent)

    return SHOWN.sub(shown, markdown)


def source(text: str, name: str) -> str:
    """The source of a function, class or constant of a Python file, or of ``Class.method``, with its decorators."""
    body, node = ast.parse(text).body, None
    for part in name.split("."):
        node = next((node for node in body if part in _names(node)), None)
        if node is None:
            raise LookupError(f"the file has no {name}")
        body = getattr(node, "body", [])
    assert node is not None
    first = min([node.lineno, *(decorator.lineno for decorator in getattr(node, "decorator_list", []))])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def _names(node: ast.stmt) -> list[str]:
    """What a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]
