"""
Writes what of the chart is generated: `python -m helm`.

The schema of its values, the README's table of them, and copies of the dashboards and
rules, since Helm reads no file outside of a chart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import yaml

from grafana.__main__ import generated as generated_by_grafana
from helm.schema import schema_of
from helm.table import with_table

CHART: Final = Path(__file__).parent / "llmtune-gateway"
_COPIED: Final = ("dashboards/", "rules/")


def generated() -> dict[str, str]:
    """Every file's text, by its path in the chart."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    copies = {
        f"files/{name}": content
        for name, content in generated_by_grafana().items()
        if name.startswith(_COPIED)
    }
    return {
        "values.schema.json": json.dumps(schema_of(values), indent=2) + "\n",
        "README.md": with_table(readme, text, values),
        **copies,
    }


def main() -> None:
    for name, content in generated().items():
        file = CHART / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
        print(file.relative_to(CHART.parent))


if __name__ == "__main__":
    main()
