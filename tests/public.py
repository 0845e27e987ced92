"""A notebook as others write them: an attachment, a table, figures, a warning, a traceback, what needs a script."""

import base64
import io

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

TEXT = r"""# Growth of a *colony*, `r` & "more"

The model is $x_{n+1} = r x_n (1 - x_n)$, solved by

\begin{align}
a &= b + c \\
d &= e
\end{align}

![what was pasted](attachment:pasted.png) ![what was lost](attachment:lost.png)

![the pipeline](images/pipeline.png) and <img src="https://example.org/logo.svg" alt="the logo">

| a column of the text | another |
|---|---|
| one | two |

# Second part

## Outputs
"""
WARNING = "cell.py:1: UserWarning: careful\n"
FRAME = pd.DataFrame({"name": ["one", "<two>"], "value": [1.5, 2.5]})
FIGURE = "<Figure size 640x480 with 1 Axes>"
TRACEBACK = [
    "\x1b[0;31m---------------------------------------------------------------------------\x1b[0m",
    "\x1b[0;31mZeroDivisionError\x1b[0m                         Traceback (most recent call last)",
    "Cell \x1b[0;32mIn[5], line 1\x1b[0m\n\x1b[0;32m----> 1\x1b[0m \x1b[38;5;241;43m1 / 0\x1b[39;49m",
    "\x1b[0;31mZeroDivisionError\x1b[0m: division by <zero>",
]


def picture(colour="navy"):
    """A PNG in base64."""
    file = io.BytesIO()
    Image.new("RGB", (200, 50), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def svg():
    """What Jupyter keeps of a figure where somebody has chosen SVG."""
    figure, axes = plt.subplots()
    axes.set_title("a title in the SVG")
    file = io.StringIO()
    figure.savefig(file, format="svg")
    plt.close(figure)
    return file.getvalue()


def shown(plain="", **data):
    """A cell with one output; x__y=… is a kind x/y."""
    cell = new_code_cell("show()", execution_count=1)
    data = {kind.replace("__", "/"): content for kind, content in data.items()}
    cell.outputs = [new_output("display_data", data=data | ({"text/plain": plain} if plain else {}))]
    return cell


def notebook():
    """All of it."""
    text = new_markdown_cell(TEXT, attachments={"pasted.png": {"image/png": picture()}})
    said, failed = new_code_cell("warn()", execution_count=2), new_code_cell("1 / 0", execution_count=3)
    said.outputs = [
        new_output("stream", name="stderr", text=WARNING),
        new_output("stream", text="\x1b[1;32mdone\x1b[0m <b>\n"),
    ]
    failed.outputs = [new_output("error", ename="ZeroDivisionError", evalue="", traceback=TRACEBACK)]
    cells = [
        text,
        shown(FRAME.to_string(), text__html=FRAME._repr_html_()),
        shown(FIGURE, image__png=picture("teal")),
        shown(FIGURE, **{"image/svg+xml": svg()}),
        shown("<IPython.core.display.Javascript object>", application__javascript="alert(1)"),
        shown("$x$", text__latex=r"$\displaystyle \sqrt{x}$"),
        said,
        failed,
    ]
    content = new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    nbformat.validate(content)
    return content
