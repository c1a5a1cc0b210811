"""Measures how far this code is from the published implementation on the golden tensors, item by item.

Print the table:                      python scripts/parity.py
Bring docs/parity.md up to date:      python scripts/parity.py --write docs/parity.md
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from context_i2w.command_line import Options, option, parse
from context_i2w.errors import exit_on_user_error


@dataclass(frozen=True)
class ParityOptions(Options):
    device: str = option("cpu", "cpu or cuda")
    output: Path | None = option(None, "every number", metavar="FILE.json")
    write: Path | None = option(None, "put the table between the file's two table marks", metavar="FILE")


@exit_on_user_error
def main(argv: Sequence[str] | None = None) -> None:
    asked = parse(ParityOptions, argv, prog="python scripts/parity.py", description=__doc__)
    import torch  # --help does without

    from context_i2w.distributed import device_named
    from context_i2w.evaluation.report import markdown_table, versions, write_json
    from measure.golden_items import measure

    torch.set_num_threads(1)
    device = device_named(asked.device)
    items = list(measure(device))
    rows = [["item", "largest difference", "unit", "bound in the tests"]]
    for name, difference, unit, bound in items:
        rows.append([name, f"{difference:.1e}" if difference else "0", unit, f"{bound:g}"])
    table = markdown_table(rows)
    print(table)
    if asked.output:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        rows = [item._asdict() for item in items]
        write_json({"device": name, "versions": versions(), "items": rows}, asked.output)
    if asked.write:
        page = asked.write.read_text(encoding="utf-8")
        page = re.sub(r"(?s)(<!-- table -->\n).*(<!-- /table -->)", rf"\1{table}\n\2", page)
        asked.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
