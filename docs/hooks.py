"""What `mkdocs build` does beside rendering: links to files outside docs/ lead to the repository, pictures of
bench/results come along, and the tutorial's page is made of its notebook."""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\(((?:\.\./)+[^)#]+)(#[^)]*)?\)")


def on_files(files, config):
    for path in sorted(ROOT.glob("bench/results/*.png")):
        files.append(File.generated(config, f"assets/bench/{path.name}", abs_src_path=str(path)))
    for path in sorted((ROOT / "docs").glob("*.ipynb")):
        files.append(File.generated(config, f"{path.stem}.md", content=notebook(json.loads(path.read_text("utf-8")))))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that leave docs/ (README and GitHub need them relative): pictures are copied, the rest is absolute."""
    folder = posixpath.dirname(page.file.src_uri)

    def outside(link):
        image, words, target, anchor = link.groups()
        path = posixpath.normpath(posixpath.join("docs", folder, target))
        if path.startswith("docs/"):
            return link[0]
        if not (ROOT / path).exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {path}, which does not exist.")
        if image:
            return f"![{words}]({posixpath.relpath(f'assets/bench/{posixpath.basename(path)}', folder or '.')})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{words}]({config.repo_url.rstrip('/')}/{kind}/main/{path}{anchor or ''})"

    return LINK.sub(outside, markdown)


def notebook(content: dict) -> str:
    """The cells of a notebook as Markdown, outputs included."""
    parts = []
    for cell in content["cells"]:
        source = "".join(cell["source"]).rstrip()
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                parts.append(f"![Output of the code above](data:image/png;base64,{''.join(data['image/png']).strip()})")
            else:
                text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
                parts.append(f"```text\n{text}\n```")
    return "\n\n".join(parts) + "\n"
