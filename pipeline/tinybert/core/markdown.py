"""Markdown. The review runs with DVC's libraries only, so this module imports only the standard library."""


def table(columns: list[str], lines: list[list[str]]) -> str:
    """A table; a bar or a line break in a cell does not end the cell."""
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in [columns, *lines]]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], ["---"] * len(columns), *cells[1:]])
