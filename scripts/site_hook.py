"""What the docs site needs beyond docs/: README as its first page, links that leave docs/, the reference.

1. README.md is index.md, so that there is one text of it.
2. A page or picture of the repository that docs or README link to becomes a page of the site, under `repository/`; a
   link to anything else (code, a folder) keeps its words and loses its address: there is no file behind it.
3. Each room of the library, read from `mlx_interp.__all__`, gets a page that mkdocstrings fills from docstrings.
4. A built page that would fetch something over the network stops the build.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
FENCED = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
ELSEWHERE = r"""["']?(?:https?:)?//[^"'> ]+"""
FETCHED = re.compile(
    rf"<(?:script|img|iframe|source)[^>]+src={ELSEWHERE}"
    rf"|<link[^>]+rel=[\"']?(?:stylesheet|preconnect|icon)[\"']?[^>]+href={ELSEWHERE}"
)
SHOWN = {".md", ".png"}
FIRST = "README.md"


def rooms() -> list[str]:
    """Rooms of the library's front door: the names of `mlx_interp.__all__` that are modules."""
    names = ast.literal_eval(re.search(r"__all__ = (\[.*?\])", _read("mlx_interp/__init__.py"), re.DOTALL)[1])
    library = ROOT / "mlx_interp"
    return [name for name in names if (library / name).is_dir() or (library / f"{name}.py").is_file()]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    for entry in config.nav:
        if isinstance(entry, dict) and entry.get("Reference") == "reference/":
            entry["Reference"] = [{"mi": "reference/mi.md"}, *({f"mi.{n}": f"reference/{n}.md"} for n in rooms())]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    made = {"index.md": _read(FIRST), "reference/mi.md": _reference("mi", "mlx_interp")}
    made |= {f"reference/{name}.md": _reference(f"mi.{name}", f"mlx_interp.{name}") for name in rooms()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    seeds = [(ROOT / FIRST), *sorted((ROOT / "docs").rglob("*.md"))]
    wanted = {place for page in seeds for place in linked(page)}
    pages = {place for place in wanted if place.suffix == ".md"}
    wanted |= {place for page in pages for place in linked(page) if place.suffix == ".png"}
    for place in sorted(wanted):
        name = "repository/" + place.relative_to(ROOT).as_posix()
        files.append(File.generated(config, name, abs_src_path=str(place)))
    return files


def on_page_markdown(text: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    return rewritten(text, page.file.src_uri, set(files.src_uris))


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    found = FETCHED.search(output)
    if found:
        raise PluginError(f"{page.file.src_uri} would fetch {found[0]!r}: the site needs no network")
    return output


def linked(page: Path) -> set[Path]:
    """Pages and pictures of the repository, outside docs/, that a page links to."""
    found = set()
    for _, _, target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        place = _place(page.relative_to(ROOT).as_posix(), target)
        if place is not None and not place.is_relative_to(ROOT / "docs") and place != ROOT / FIRST:
            found.add(place)
    return found


def rewritten(text: str, page: str, known: set[str]) -> str:
    """A page's text with each relative link as the site has it; `page` and `known` are paths of the site's sources."""

    def one(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        place = _place(_source(page), target)
        name = None if place is None else _name(place)
        if name not in known:
            return match[0] if _source(page).startswith("docs/") and not target.startswith("../") else words
        anchor = target.partition("#")[1:]
        return f"{picture}[{words}]({posixpath.relpath(name, posixpath.dirname(page) or '.')}{''.join(anchor)})"

    parts = FENCED.split(text)  # code stands at odd places
    return "".join(part if n % 2 else LINK.sub(one, part) for n, part in enumerate(parts))


def _source(page: str) -> str:
    """A page of the site as a path of the repository."""
    if page == "index.md":
        return FIRST
    return page.removeprefix("repository/") if page.startswith("repository/") else f"docs/{page}"


def _name(place: Path) -> str:
    """A file of the repository as a source of the site."""
    inside = place.relative_to(ROOT).as_posix()
    if inside == FIRST:
        return "index.md"
    return inside.removeprefix("docs/") if inside.startswith("docs/") else f"repository/{inside}"


def _place(page: str, target: str) -> Path | None:
    """The file that a link of a page leads to, a folder's README for a folder; None for what the site does not show."""
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(page), target.partition("#")[0]))
    place = ROOT / inside
    if place.is_dir():
        place = next((place / name for name in ("README.md", "table.md") if (place / name).is_file()), place)
    return place if place.is_file() and place.suffix in {*SHOWN, ".ipynb"} and not inside.startswith("..") else None


def _reference(name: str, module: str) -> str:
    return f"# {name}\n\n::: {module}\n"


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
