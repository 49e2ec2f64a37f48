"""Draw the state machines of `domain/states.py` into `docs/states.md`: `python -m local.states [--check]`."""

import sys
from pathlib import Path

from monetize.domain.states import MACHINES, Machine

PAGE = Path(__file__).resolve().parents[1] / "docs" / "states.md"
HEAD = """# States

Drawn from `layers/common/python/monetize/domain/states.py` by `python -m local.states`: do not edit.
A move that is not drawn is refused with the code `illegal_move`.
"""


def page() -> str:
    """The whole document."""
    return HEAD + "".join(f"\n## {machine.entity.capitalize()}\n\n{diagram(machine)}" for machine in MACHINES)


def diagram(machine: Machine) -> str:
    """One machine as a mermaid state diagram; a state without moves leads to the end."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {machine.initial}"]
    for state, moves in machine.moves.items():
        lines += [f"    {state} --> {target}: {move}" for move, target in moves.items()]
        if not moves:
            lines.append(f"    {state} --> [*]")
    return "\n".join([*lines, "```", ""])


def main(arguments: list[str]) -> int:
    """Write the page, or with `--check` tell whether it is current (exit 1 when not)."""
    if "--check" in arguments:
        if PAGE.is_file() and PAGE.read_text() == page():
            return 0
        print("docs/states.md is not what domain/states.py says: run python -m local.states", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
