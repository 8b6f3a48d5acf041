"""Small charts as SVG, made here: no script, no style attribute, a text for those who do not see them."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup


def sparkline(values: Sequence[float], label: str, *, width: int = 160, height: int = 32, kind: str = "accent") -> Markup:
    """A line over equal steps of time; `label` says in words what it shows."""
    top = max(values, default=0) or 1
    step = width / max(1, len(values) - 1)
    points = [(i * step, height - 2 - (height - 4) * value / top) for i, value in enumerate(values)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    area = f"0,{height} {line} {width},{height}" if points else ""
    return Markup(
        '<svg class="spark {}" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<polygon class="area" points="{}"/><polyline class="line" points="{}"/></svg>'
    ).format(kind, width, height, label, area, line)


def bars(
    values: Sequence[Sequence[float]],
    kinds: Sequence[str],
    label: str,
    *,
    titles: Sequence[str] = (),
    width: int = 640,
    height: int = 96,
) -> Markup:
    """Stacked bars over equal steps of time.

    :param values: for each step the parts of its bar, from the bottom.
    :param kinds: a CSS class for each part, such as `completed`, `failed`.
    :param titles: for each step the words shown on hover.
    """
    top = max((sum(parts) for parts in values), default=0) or 1
    wide = width / max(1, len(values))
    out = []
    for i, parts in enumerate(values):
        y = float(height)
        title = Markup("<title>{}</title>").format(titles[i]) if i < len(titles) else Markup("")
        drawn = []
        for value, kind in zip(parts, kinds, strict=True):
            tall = (height - 1) * value / top
            y -= tall
            if value:
                drawn.append(
                    Markup('<rect class="{}" x="{:.2f}" y="{:.2f}" width="{:.2f}" height="{:.2f}"/>').format(
                        kind, i * wide + 0.5, y, max(0.5, wide - 1), tall
                    )
                )
        out.append(Markup("<g>{}{}</g>").format(title, Markup("").join(drawn)))
    return Markup(
        '<svg class="bars" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(width, height, label, Markup("").join(out))
