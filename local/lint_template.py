"""Lint the template as CloudFormation will get it. Runs in .venv-sam: python -m local.lint_template [template.yaml].

`sam validate --lint` looks at the template as written. A circle between the API and a function shows only once SAM has
translated it, so the translation is linted too; then such a circle is planted, to see that it would be found.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from local import template as templates

REGION = "us-east-1"
CIRCLE = "E3004"


def translated(template: dict[str, Any]) -> dict[str, Any]:
    """What SAM makes of the template, code addresses replaced by an example's."""
    from samtranslator.translator.transform import transform  # type: ignore[import-not-found] # in .venv-sam alone

    source = copy.deepcopy(template)
    for resource in source["Resources"].values():
        for name in ("CodeUri", "ContentUri"):
            if name in resource.get("Properties", {}):
                resource["Properties"][name] = "s3://example-bucket/key"
    made: dict[str, Any] = transform(source, {}, _NoManagedPolicies())
    return made


class _NoManagedPolicies:
    """Every role is written out, so no name of a managed policy has to be looked up."""

    def load(self) -> dict[str, str]:
        return {}


def findings(template: dict[str, Any]) -> list[str]:
    """cfn-lint's findings on the translated template, one line each."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "translated.json"
        path.write_text(json.dumps(translated(template), indent=1), encoding="utf-8")
        linter = str(Path(sys.executable).parent / "cfn-lint")
        command = [linter, "--format", "parseable", "--regions", REGION, "--template", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)  # noqa: S603 our own
    if done.stderr:
        raise RuntimeError(done.stderr)
    return [line.rpartition("translated.json:")[2] for line in done.stdout.splitlines() if line]


def with_circle(template: dict[str, Any]) -> dict[str, Any]:
    """The template, with an environment that refers to the API."""
    planted = copy.deepcopy(template)
    variables = planted["Globals"]["Function"]["Environment"]["Variables"]
    variables["PUBLIC_BASE_URL"] = {"Fn::Sub": "https://${Api}.example.com"}
    return planted


def main(arguments: list[str]) -> int:
    """Exit code 1 when there is a finding, or when the planted circle is not found."""
    os.environ.setdefault("AWS_DEFAULT_REGION", REGION)
    template = templates.load(Path(arguments[0] if arguments else "template.yaml"))
    found = findings(template)
    print("\n".join(found) if found else "translated template: no findings")
    if not any(f":{CIRCLE}:" in line for line in findings(with_circle(template))):
        print("a circle between the API and the functions was planted and not found")
        return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
