"""Digest of measuring code: which change of the sources makes a stored record another run's.

1. Start where the study states its stages, config and groups; tables, figures, headline and plan are no roots, for
   they are made anew from the records.
2. In `experiments`, follow names from definition to definition; in `mlx_interp`, from module to module. What reads
   weights is always part of it: it decides numbers, and no study names it.
3. Hash each definition as Python understands it: without comments, docstrings and layout.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mlx_interp.reporting.files import files_digest
from mlx_interp.studies import LIBRARY as LIBRARY_FOLDER

ROOT = Path(__file__).resolve().parents[2]
"""Of the studies; the library lies there too, unless a wheel holds both."""
STUDIES, LIBRARY = "experiments", "mlx_interp"
HARNESS = f"{STUDIES}.harness"
MEASURED_BY = ("stages", "config", "group", "read_config")
"""The parts of an Experiment that decide what is measured."""
ALWAYS = (
    "mlx_interp.model",
    *(f"mlx_interp.loading.{name}" for name in ("weights", "configs", "profile", "rope", "gguf")),
)
"""What decides numbers without being named by a study."""
RUNNING = (
    *(
        f"{HARNESS}.{name}"
        for name in ("runner", "measuring", "options", "fields", "report", "page_files", "identity", "experiment")
    ),
    *(f"{HARNESS}.{name}" for name in ("code", "pace", "coverage", "publish", "registry", "state", "schema")),
    *(f"{HARNESS}.{name}" for name in ("gated", "together", "on_ray", "local_pool", "worker")),
    *("mlx_interp.reporting", "mlx_interp.pages", "mlx_interp.errors", "mlx_interp.progress", "mlx_interp.ranks"),
    *(f"mlx_interp.loading.{name}" for name in ("names", "hub", "checkpoint", "safetensors_header", "cache_folder")),
    *(f"mlx_interp.loading.{name}" for name in ("fingerprint", "proofs", "doctor", "speed", "load", "blas")),
)
"""What only runs a study: a change there changes no number."""
Place = tuple[str, str]
"""A module, and a definition in it; "" for all of it."""


def code_digest(source: Path) -> str:
    """A hash over a study's module and everything of this project that it measures by."""
    digest = hashlib.sha256()
    for (module, name), text in sorted(measuring_code(source).items()):
        digest.update(f"{module}:{name}\0{text}\0".encode())
    return digest.hexdigest()[:16]


def report_digest(source: Path) -> str:
    """A hash over the bytes of everything that a study's files depend on, once its records are there."""
    files = {file.path for file in _closure(source, leave_out=())}
    files |= {*(LIBRARY_FOLDER / "reporting").glob("*.py"), ROOT / STUDIES / "harness" / "report.py"}
    files |= {*(LIBRARY_FOLDER / "pages" / "templates").iterdir()}
    studies = {path for path in files if path.is_relative_to(ROOT / STUDIES)}
    library = {path for path in files - studies if path.is_relative_to(LIBRARY_FOLDER)}
    parts = (files_digest(files - library, ROOT), files_digest(library, LIBRARY_FOLDER.parent))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def measuring_code(source: Path) -> dict[Place, str]:
    """Each part of the sources that can change a measured number, with its text as it is hashed."""
    start = _module_at(source.resolve())
    roots = _roots(start)
    found: dict[Place, str] = {(start.name, "<measured by>"): normalised(roots)}
    waiting = [*_leading_from(start, roots, start), *((name, "") for name in ALWAYS)]
    while waiting:
        place = waiting.pop()
        if place in found or place[0].startswith(RUNNING):
            continue
        module = _module_named(place[0], start)
        if module is None:
            continue
        name = place[1]
        statements = module.definitions.get(name, []) if name else module.tree.body
        found[place] = normalised(statements)
        waiting += _leading_from(module, statements, start)
        if name and (module.name, "<loose>") not in found:
            found[module.name, "<loose>"] = normalised(module.loose)
            waiting += _leading_from(module, module.loose, start)
    return {place: text for place, text in found.items() if text}


def normalised(statements: Iterable[ast.stmt]) -> str:
    """Statements of a parsed Module as Python understands them: no comments, no docstrings, one layout."""
    return "\n".join(map(_unparsed, statements))


@dataclass(frozen=True)
class Module:
    """A source file, and what stands in it under which name."""

    name: str
    path: Path
    tree: ast.Module
    definitions: Mapping[str, list[ast.stmt]]
    imports: Mapping[str, Place]
    """Local name -> the module it is, or the module and definition that it is from."""
    loose: list[ast.stmt]
    """What runs on import without defining a name."""


@lru_cache(maxsize=1024)
def _parsed(path: Path, name: str, stamp: tuple[int, int]) -> Module:
    tree = _undocumented(ast.parse(path.read_text(encoding="utf-8")))
    definitions: dict[str, list[ast.stmt]] = {}
    loose = []
    for statement in tree.body:
        names = list(_defined(statement))
        for one in names:
            definitions.setdefault(one, []).append(statement)
        if not names and not isinstance(statement, ast.Import | ast.ImportFrom):
            loose.append(statement)
    loose = [statement for statement in loose if not _is_main(statement)]
    return Module(name, path, tree, definitions, dict(_imports(tree)), loose)


def _module_at(path: Path, name: str | None = None) -> Module:
    if name is None and path.is_relative_to(ROOT):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    facts = path.stat()
    return _parsed(path, name or path.stem, (facts.st_mtime_ns, facts.st_size))


def _module_named(name: str, start: Module) -> Module | None:
    if name == start.name:
        return start
    path = _file_of(name)
    return None if path is None else _module_at(path, name)


@lru_cache(maxsize=4096)
def _file_of(name: str) -> Path | None:
    """The source of a module of this project; None for any other name."""
    if name.partition(".")[0] not in (STUDIES, LIBRARY):
        return None
    base = (LIBRARY_FOLDER.parent if name.partition(".")[0] == LIBRARY else ROOT).joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _roots(start: Module) -> list[ast.stmt]:
    """What the statement of EXPERIMENT measures by; the whole module where there is no such statement."""
    for statement in start.definitions.get("EXPERIMENT", []):
        value = getattr(statement, "value", None)
        if isinstance(value, ast.Call) and any(word.arg == "stages" for word in value.keywords):
            return [ast.Expr(word.value) for word in value.keywords if word.arg in MEASURED_BY]
    return start.tree.body


def _leading_from(module: Module, statements: Iterable[ast.stmt], start: Module) -> Iterator[Place]:
    """Where some statements of a module lead: their names, as far as they are this project's."""
    statements = list(statements)
    if module.name.partition(".")[0] == LIBRARY:  # whole modules: what they import
        yield from (_as_far_as(place, start) for place in module.imports.values())
        return
    bare, dotted = _names_in(statements)
    for name in bare | dotted.keys():
        if name in module.definitions:
            yield module.name, name
        elif name in module.imports:
            target, attribute = module.imports[name]
            inner = _module_named(f"{target}.{attribute}", start) if attribute else _module_named(target, start)
            if inner is None:
                yield from _through(target, attribute, start)
            elif name in bare:
                yield inner.name, ""
            else:
                for one in dotted[name]:
                    yield from _through(inner.name, one, start)


def _through(module: str, name: str, start: Module) -> Iterator[Place]:
    """A definition by the module that it is imported from, which may import it from elsewhere itself."""
    there = _module_named(module, start)
    if there is None:
        return
    if name in there.definitions and there.name.partition(".")[0] != LIBRARY:
        yield there.name, name
    elif name not in there.definitions and name in there.imports:
        yield _as_far_as(there.imports[name], start)
    else:
        yield there.name, ""


def _as_far_as(place: Place, start: Module) -> Place:
    """The module that a place means: a submodule, or, of the library, the whole module of a definition."""
    module, name = place
    if name and _module_named(f"{module}.{name}", start) is not None:
        return f"{module}.{name}", ""
    return (module, "") if module.partition(".")[0] == LIBRARY else place


def _closure(source: Path, *, leave_out: tuple[str, ...]) -> list[Module]:
    """The module and all modules of this project that it leads to, the front door's own imports left out."""
    start = _module_at(source.resolve())
    found: dict[str, Module] = {}
    waiting = [start.name]
    while waiting:
        name = waiting.pop()
        module = _module_named(name, start)
        if name in found or module is None or name == LIBRARY or name.startswith(leave_out or ("\0",)):
            continue
        found[name] = module
        for target, attribute in module.imports.values():
            waiting += [target, f"{target}.{attribute}"] if attribute else [target]
    return list(found.values())


def _defined(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign) and isinstance(statement.target, ast.Name):
        yield statement.target.id


def _imports(tree: ast.Module) -> Iterator[tuple[str, Place]]:
    """Every import of this project's modules, those inside functions too."""
    for node in _blocks(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] in (STUDIES, LIBRARY):
                    yield alias.asname or alias.name, (alias.name, "")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in (STUDIES, LIBRARY):
            for alias in node.names:
                yield alias.asname or alias.name, (node.module or "", alias.name)


def _names_in(statements: Iterable[ast.stmt]) -> tuple[set[str], dict[str, set[str]]]:
    """Names that are used by themselves, and those of which attributes are used, with these."""
    bare: set[str] = set()
    dotted: dict[str, set[str]] = {}
    waiting: list[ast.AST] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            dotted.setdefault(node.value.id, set()).add(node.attr)
        elif isinstance(node, ast.Name):
            bare.add(node.id)
        else:
            waiting += ast.iter_child_nodes(node)
    return bare, dotted


def _undocumented(tree: ast.Module) -> ast.Module:
    """The tree itself, without the texts that stand alone in its bodies."""
    for node in _blocks(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and any(map(_is_text, body)):
            kept = [one for one in body if not _is_text(one)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return tree


def _blocks(tree: ast.Module) -> Iterator[ast.AST]:
    """The module and all its statements, however deep; expressions, which are most of a tree, are not entered."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, field, ())
            waiting += inner if isinstance(inner, list) else ()


@lru_cache(maxsize=8192)
def _unparsed(statement: ast.stmt) -> str:
    return ast.unparse(statement)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)
