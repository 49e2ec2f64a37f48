"""Whatever a page names is there: paths, links, make targets, modules, routes, settings, codes, names of the code."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "local/stripe_emulator/README.md"]
# Where a page may mean a path from: a reader of the guides knows our package's layers by their names alone.
BASES = (ROOT, ROOT / "layers/common/python/monetize", ROOT / "local/requirements", ROOT / "layers/dependencies")
SOURCES = ("functions", "layers", "local", "tests", "events")
TEXTS = {".py", ".sh", ".yaml", ".toml", ".in", ".txt"}
# Words of others that no source of ours holds, and what they are.
FOREIGN = {
    **dict.fromkeys(
        ("AWS_PROFILE", "AWS_SAM_LOCAL", "host.docker.internal", "requestPayload", "IteratorAge"), "AWS's and Docker's"
    ),
    **dict.fromkeys(("start-api", "describe-table", "sam"), "a command of AWS's"),
    "PermissionError": "the name of Stripe's error class",
}
# Made when a command runs; git ignores them.
MADE = (".venv", ".aws-sam", ".local")


@cache
def code() -> str:
    """Every source that is no page, this test left out."""
    paths = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*")) if path.suffix in TEXTS]
    paths += [ROOT / name for name in ("template.yaml", "Makefile", "pyproject.toml", "samconfig.toml")]
    return "\n".join(path.read_text("utf-8") for path in paths if path != Path(__file__))


@cache
def words() -> frozenset[str]:
    """Everything in the sources that could be a name, dots and dashes within it included, and its parts."""
    whole = set(re.findall(r"[A-Za-z_][\w.*-]*\w", code())) | {path.stem for path in (ROOT / "events").iterdir()}
    return frozenset(whole | {part for each in whole for part in re.split(r"[.-]", each)})


@cache
def routes() -> tuple[str, ...]:
    """Every `METHOD /path` that is described, names of parameters left out."""
    paths: dict[str, dict[str, object]] = json.loads((ROOT / "docs/openapi.json").read_text("utf-8"))["paths"]
    return tuple(f"{method.upper()} {without_names(path)}" for path, methods in paths.items() for method in methods)


def without_names(path: str) -> str:
    return re.sub(r"\{\w*\}", "{}", path)


def text(page: Path) -> str:
    """A page's words as its reader sees them: no drawings."""
    return re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def spans(page: Path) -> Iterator[str]:
    """What stands in backticks, and every line of a block of commands."""
    found = text(page)
    yield from re.findall(r"`([^`\n]+)`", found)
    yield from (line.strip() for line in re.findall(r"^ {4}(\S.*)$", found, re.MULTILINE))


def is_there(page: Path, name: str) -> bool:
    if re.fullmatch(r"test_\w+\.py", name):
        return len(list((ROOT / "tests").rglob(name))) == 1
    pattern = re.sub(r"<\w+>|…", "*", name)
    return any(next(base.glob(pattern), None) is not None for base in (*BASES, page.parent))


def described(method: str, path: str) -> bool:
    """Is there such a route? `…/x` is the end of one; without a method, a resource's own name is enough."""
    ending, asked = path.startswith("…"), without_names(path.removeprefix("…").partition("?")[0])
    for route in routes():
        verb, _, known = route.partition(" ")
        if method in ("", verb) and (
            known.endswith(asked)
            if ending or not method
            else re.fullmatch(r"[^/]+".join(map(re.escape, known.split("{}"))), asked) or known == asked
        ):
            return True
    return not method and any(f"{route.partition(' ')[2]}/".startswith(f"{asked}/") for route in routes())


def problem(page: Path, span: str) -> str:
    """What a span names that is not there, or nothing."""
    if found := re.match(r"make ([a-z-]+)", span):
        unknown = {
            name for name in re.findall(r" ([A-Z]+)=", span) if f"$({name})" not in (ROOT / "Makefile").read_text()
        }
        there = re.search(rf"^{found[1]}:|^\.PHONY:.* {found[1]}\b", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return "" if there and not unknown else "no such target or variable"
    if found := re.search(r"python\)? -m (local\.[\w.]+)", span):
        module = ROOT / found[1].replace(".", "/")
        return "" if module.with_suffix(".py").is_file() or (module / "__main__.py").is_file() else "no such module"
    if found := re.match(r"(GET|POST|PUT|DELETE|OPTIONS) (\S+)", span):
        path = without_names(re.sub(r"/acme(?=/|$)", "/{}", found[2]))
        begins = path.endswith("/…") and any(path.removesuffix("…") in each for each in routes())
        foreign = path.startswith(("/_local", "/v1"))
        return "" if begins or foreign or described(found[1], path) else "no such route"
    if span.startswith("/") and re.fullmatch(r"/[\w/{}.-]+", span):
        foreign = span.startswith(("/_local", "/v1", "/oauth", "/opt", "/c/", "/i/", "/p/"))
        path = re.sub(r"/acme(?=/|$)", "/{}", span)
        return "" if foreign or described("", path) else "no such route"
    if re.fullmatch(r"[\w.<>*-]+(/[\w.<>*-]*)+|[\w-]+\.(md|txt|in|json|yaml|toml|py)|\.[\w-]+\.yaml", span):
        foreign = "/" in span and re.match(r"(application|text|public\.ecr)", span) is not None
        return "" if foreign or span.startswith(MADE) or is_there(page, span) else "no such path"
    if re.fullmatch(r"[.…]*[A-Za-z_][\w.*-]*( ?[=:] ?[\w.]+)?", span):
        name = re.match(r"[.…]*([A-Za-z_][\w.*-]*)", span)
        assert name is not None
        stem = name[1].rstrip(".*_-")
        # The emulator's page names members of Python objects, and of Stripe's, by their way there.
        way = page.is_relative_to(ROOT / "local") and words() >= set(stem.split("."))
        # The first part of a metric's name may be all that stands in the code.
        made = any(f"{head}_" in words() and tail in words() for head, _, tail in [stem.partition("_")])
        known = way or made or stem in words() or (stem != name[1] and any(each.startswith(stem) for each in words()))
        return "" if known or name[1] in FOREIGN else "no such word in the code"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_everything_that_a_page_names_is_there(page: Path) -> None:
    wrong = {span: found for span in dict.fromkeys(spans(page)) if (found := problem(page, span))}
    assert wrong == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        where, _, heading = target.partition("#")
        if "://" in where:
            continue
        there = (page.parent / where).resolve() if where else page
        if not there.exists() or (heading and heading not in anchors(there)):
            broken.append(target)
    assert broken == []


def anchors(page: Path) -> set[str]:
    """Headings as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", text(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


def test_every_decision_is_in_the_index_in_order_and_says_how_to_undo_it() -> None:
    folder = ROOT / "docs/decisions"
    listed = re.findall(
        r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (folder / "README.md").read_text("utf-8"), re.MULTILINE
    )
    pages = sorted(path for path in folder.glob("*.md") if path.name != "README.md")
    titles = [path.read_text("utf-8").splitlines()[0].removeprefix("# ") for path in pages]
    assert listed == [(path.name[:4], path.name, title) for path, title in zip(pages, titles, strict=True)]
    assert all(re.search(r"^\d{4}-\d\d-\d\d$", path.read_text("utf-8"), re.MULTILINE) for path in pages)


@pytest.mark.parametrize(
    "span",
    [
        "make nothing",
        "make demo NOTHING=1",
        "python -m local.nothing",
        "GET /nothing",
        "DELETE /invoices",
        "POST …/nothing",
        "/nothing",
        "tests/unit/test_nothing.py",
        "nothing.md",
        "NothingAlarm",
        "no_such_code_of_ours",
        "invoice.nothing_of_it",
        "NothingPaused=true",
    ],
)
def test_a_stale_name_is_found(span: str) -> None:
    assert problem(ROOT / "README.md", span)
