"""Charts as inline SVG. They need no script, so the page opens offline; its style sheet gives the colours."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from html import escape

WIDTH, HEIGHT = 420, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 44
MOST_POINTS = 200  # of a curve; more cannot be seen
MOST_CLASSES = 12  # of a confusion matrix; the rarest are left out
CHARACTER = 6.2  # average width of a character of the labels
COLOURS = 6  # of series that are not named after a model
FORMS = ("", "pytorch", "onnx", "int8")

Point = tuple[float, float]
Scale = Callable[[float], float]


def lines(
    series: dict[str, list[Point]],
    x_label: str,
    y_label: str,
    names_of_x: Sequence[str] = (),
    diagonal: bool = False,
    dots: bool = True,
) -> str:
    """Lines through points. ``names_of_x``: if x is ordinal, the names of 0, 1, … ``diagonal``: draw y = x."""
    points = [point for of_one in series.values() for point in of_one]
    x, x_ticks = scale([point[0] for point in points], LEFT, WIDTH - RIGHT)
    y, y_ticks = scale([point[1] for point in points], HEIGHT - BOTTOM, TOP)
    x_marks = [(x(at), name) for at, name in enumerate(names_of_x)] or [(x(tick), number(tick)) for tick in x_ticks]
    parts = axes(x_marks, [(y(tick), number(tick)) for tick in y_ticks], x_label, y_label)
    if diagonal:
        values = [value for point in points for value in point]
        low, high = min(values), max(values)
        parts.append(line((x(low), y(low)), (x(high), y(high)), "grid dashed"))
    for place, (name, of_one) in enumerate(series.items()):
        of_one = of_one[:: math.ceil(len(of_one) / MOST_POINTS) or 1]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in of_one)
        parts.append(f'<polyline class="line {css_class(name, place)}" points="{path}"/>')
        for at, value in of_one if dots else ():
            tip = f"{name}: {names_of_x[int(at)] if names_of_x else number(at)}, {number(value)}"
            parts.append(dot(x(at), y(value), css_class(name, place), tip))
    return svg(parts, legend(series))


def intervals(rows: list[tuple[str, float, float, float]], x_label: str) -> str:
    """A dot and the line of its interval for each (name, value, low, high)."""
    height = 40 * len(rows) + BOTTOM
    left = min(WIDTH / 3, 20 + CHARACTER * max(len(name) for name, *_ in rows))
    x, ticks = scale([value for row in rows for value in row[1:]], left, WIDTH - 40)
    parts = axes([(x(tick), number(tick)) for tick in ticks], [], x_label, "", height, left)
    for at, (name, value, low, high) in enumerate(rows):
        y = 20 + 40 * at
        parts += [
            text(left - 10, y + 4, name, "end"),
            line((x(low), y), (x(high), y), f"line {css_class(name, at)}"),
            dot(x(value), y, css_class(name, at), f"{name}: {number(value)} ({number(low)} to {number(high)})", 5),
            text(x(value), y - 9, f"{100 * value:.1f}", "middle"),
        ]
    return svg(parts, height=height)


def scatter(points: list[tuple[str, float, float]], x_label: str, y_label: str) -> str:
    """A labelled dot for each (name, x, y); x is logarithmic."""
    x, _ = scale([math.log10(point[1]) for point in points], LEFT + 12, WIDTH - RIGHT - 12)
    y, y_ticks = scale([point[2] for point in points], HEIGHT - BOTTOM - 20, TOP + 12)
    x_marks = [(x(math.log10(at)), number(at)) for at in decades([point[1] for point in points])]
    parts = axes(x_marks, [(y(tick), number(tick)) for tick in y_ticks], x_label, y_label)
    colours = {name: css_class(name, place) for place, (name, *_) in enumerate(points)}
    for number_of_point, (name, at, value) in enumerate(sorted(points, key=lambda point: point[1])):
        place, above = x(math.log10(at)), number_of_point % 2 == 0  # names of neighbours must not overlap
        anchor = "start" if place < WIDTH / 3 else "end" if place > WIDTH * 2 / 3 else "middle"
        parts.append(dot(place, y(value), colours[name], f"{name}: {number(at)} ms, {number(value)}", 5))
        parts.append(text(place, y(value) + (-10 if above else 18), name, anchor))
    return svg(parts)


def confusion(pairs: Iterable[tuple[str, str]]) -> str:
    """Actual by predicted class, with counts; the colour is the share of the actual class."""
    pairs = list(pairs)
    counts = Counter(pairs)
    sizes: Counter[str] = Counter()
    for pair, count in counts.items():
        sizes.update(dict.fromkeys(pair, count))
    names = sorted((name for name, _ in sizes.most_common(MOST_CLASSES)), key=numeric_first)
    left = min(150, 30 + CHARACTER * max(map(len, names)))
    cell = min(70, (WIDTH - left - RIGHT) / len(names))
    height = 34 + cell * len(names) + 20
    totals = Counter(actual for actual, _ in pairs)
    parts = [text(left + cell * len(names) / 2, 12, "predicted", "middle", "label")]
    for column, name in enumerate(names):
        parts.append(text(left + cell * (column + 0.5), 28, shortened(name, cell / CHARACTER), "middle"))
        parts.append(text(left - 8, 38 + cell * (column + 0.5), shortened(name, 20), "end"))
    for (row, actual), (column, predicted) in ((a, p) for a in enumerate(names) for p in enumerate(names)):
        count, share = counts[actual, predicted], counts[actual, predicted] / max(totals[actual], 1)
        x, y = left + cell * column, 34 + cell * row
        tip = f"<title>actual {escape(actual)}, predicted {escape(predicted)}: {count}</title>"
        parts.append(
            f'<rect class="cell" x="{x:.1f}" y="{y:.1f}" width="{cell - 2:.1f}" height="{cell - 2:.1f}"'
            f' style="fill-opacity:{share:.2f}">{tip}</rect>'
        )
        if cell > 24:
            parts.append(
                text(x + cell / 2 - 1, y + cell / 2 + 4, str(count), "middle", "strong" if share > 0.5 else "")
            )
    return svg(parts, height=height)


def numeric_first(name: str) -> tuple[float, str]:
    """Numbers by their value, before names."""
    try:
        return float(name), name
    except ValueError:
        return math.inf, name


def legend(names: Iterable[str]) -> str:
    keys = "".join(
        f'<span><i class="key {css_class(name, place)}"></i>{escape(name)}</span>' for place, name in enumerate(names)
    )
    return f'<figcaption class="legend">{keys}</figcaption>'


def scale(values: Iterable[float], start: float, end: float) -> tuple[Scale, list[float]]:
    """A linear scale from the values' range, widened by a tenth, to ``start`` … ``end``; and its ticks."""
    low, high = min(values := list(values)), max(values)
    margin = (high - low) * 0.05 or abs(high) * 0.05 or 1
    low, high = low - margin, high + margin
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 5)
    ticks = [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return lambda value: start + (value - low) / (high - low) * (end - start), ticks


def decades(values: list[float]) -> list[float]:
    """1, 2 and 5 times powers of ten within the values' range; if there are none, its two ends."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    marks = [float(f"{digit}e{power}") for power in powers for digit in (1, 2, 5)]
    return [mark for mark in marks if min(values) <= mark <= max(values)] or [min(values), max(values)]


def axes(
    x_marks: list[Point] | list[tuple[float, str]],
    y_marks: list[tuple[float, str]],
    x_label: str,
    y_label: str,
    height: float = HEIGHT,
    left: float = LEFT,
) -> list[str]:
    bottom, middle = height - BOTTOM, (left + WIDTH - RIGHT) / 2
    parts = [line((left, y), (WIDTH - RIGHT, y), "grid") + text(left - 8, y + 4, name, "end") for y, name in y_marks]
    spacing = max(1, math.ceil(len(x_marks) * CHARACTER * 6 / (WIDTH - left)))
    for x, name in x_marks[::spacing]:
        parts.append(line((x, bottom), (x, bottom + 4), "axis") + text(x, bottom + 17, str(name), "middle"))
    parts.append(line((left, bottom), (WIDTH - RIGHT, bottom), "axis"))
    parts.append(text(middle, height - 6, x_label, "middle", "label"))
    if y_label:
        parts.append(
            f'<text class="label" text-anchor="middle" transform="translate(11 {bottom / 2:.0f}) rotate(-90)">'
            f"{escape(y_label)}</text>"
        )
    return parts


def line(start: Point, end: Point, classes: str) -> str:
    return f'<line class="{classes}" x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}"/>'


def dot(x: float, y: float, colour: str, tip: str, radius: float = 3) -> str:
    return f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(tip)}</title></circle>'


def text(x: float, y: float, content: str, anchor: str, classes: str = "") -> str:
    return f'<text class="{classes}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'


def svg(parts: list[str], caption: str = "", height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>{caption}'


def css_class(name: str, place: int) -> str:
    """The class that gives the colour: that of the model, perhaps in a format ("student int8"), else of its place."""
    model, _, form = name.partition(" ")
    is_model = model in ("teacher", "baseline", "student") and form in FORMS
    return f"m-{model}" if is_model else f"m-{place % COLOURS}"


def number(value: float) -> str:
    return f"{value:.4g}"


def shortened(name: str, characters: float) -> str:
    return name if len(name) <= characters else f"{name[: max(1, int(characters) - 1)]}…"
