"""The diagram of a batch's way through negplug.

    python docs/scripts/way.py            writes docs/figures/way.svg

The page takes the drawing up as text, so that it has the colours of the page, light or dark.
`tests/house/test_site.py` holds the file names to the files.
"""

from __future__ import annotations

from pathlib import Path

FIGURE = Path(__file__).parents[1] / "figures" / "way.svg"

# What happens, and the files that do it.
STEPS = (
    (
        "The loader gives a batch; its data set indexes are read",
        ["negplug/hosts/trainer/indexes/recorder.py"],
    ),
    (
        "The recipe calls its loss: ours, in its place",
        ["negplug/hosts/injection.py", "integrations/negplug_lightly/criteria.py"],
    ),
    (
        "The adapter says who is anchor, key and positive",
        ["negplug/hosts/treated_loss.py", "negplug/contract/batch.py"],
    ),
    (
        "Which call of which step is it? Its draws follow",
        ["negplug/loss/contrastive.py", "negplug/loss/steps.py", "negplug/contract/draws.py"],
    ),
    (
        "The sampler chooses rows for each anchor",
        ["negplug/samplers/uniform.py, queue.py, …", "negplug/contract/negatives.py"],
    ),
    (
        "The objective makes a loss of each anchor",
        ["negplug/objectives/infonce.py, decoupled.py, …"],
    ),
    (
        "The size of the question picks a kernel",
        ["negplug/kernels/choice.py, pool/, chosen/, chain/, …"],
    ),
    ("The mean goes back to the recipe", ["negplug/loss/mean.py"]),
    (
        "After the backward pass memories take in keys",
        ["negplug/samplers/common/remembering.py", "negplug/loss/saved.py"],
    ),
)

WIDTH, MARGIN, GAP, LINE = 440, 8, 24, 19


def drawing() -> str:
    """Return the diagram as SVG, without a blank line, which would end it in Markdown."""
    parts: list[str] = []
    top = MARGIN
    for number, (title, files) in enumerate(STEPS):
        height = 34 + LINE * len(files)
        if number:
            parts.append(f'<path class="arrow" d="M{WIDTH / 2} {top - GAP}v{GAP - 7}"/>')
            head = f"M{WIDTH / 2 - 5} {top - 9}h10l-5 8z"
            parts.append(f'<path class="head" d="{head}"/>')
        parts.append(
            f'<rect class="box" x="{MARGIN}" y="{top}" width="{WIDTH - 2 * MARGIN}" '
            f'height="{height}" rx="6"/>'
        )
        parts.append(f'<text x="{MARGIN + 12}" y="{top + 22}">{number + 1}. {title}</text>')
        for line, file in enumerate(files):
            y = top + 22 + LINE * (line + 1)
            parts.append(f'<text class="file" x="{MARGIN + 30}" y="{y}">{file}</text>')
        top += height + GAP
    height = top - GAP + MARGIN
    head = (
        f'<svg class="way" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'role="img" aria-label="The way of a batch, in nine steps">'
    )
    return "\n".join([head, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    FIGURE.write_text(drawing(), encoding="utf-8")
