"""What ``--json`` prints at the end of a run."""

from __future__ import annotations

import json

from autocompress.commands.output import as_json
from autocompress.reports.json_result import as_data

from .conftest import front_for


def test_the_outcome_as_data_tells_what_the_table_does() -> None:
    """Models are those of pareto.csv, the recommended one and whether anything meets the target are named."""
    front = front_for(4.0)
    data = as_data(front, "runs/digits")
    assert data["meets_target"] is True
    assert data["recommended"] == front.recommended.id if front.recommended else None
    rows = front.to_pandas().to_dict("records")
    assert [data["baseline"], *data["models"]] == rows
    assert [row["id"] for row in data["obvious"]] == [m.id for m in front.references]
    assert json.loads(as_json(data))["target_ms"] == 4.0
