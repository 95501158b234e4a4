"""The frame of an HTML page that stands alone, such as a report."""

from __future__ import annotations


def html_page(title: str, style: str, body: str) -> str:
    """Return a page with a title, which is also its first heading.

    Args:
        title: the title, as HTML.
        style: style sheet.
        body: the rest of the page, as HTML.

    Examples:
        >>> html_page("A &amp; B", "p { margin: 0 }", "<p>Text</p>").splitlines()[6:11]
        ['<style>p { margin: 0 }</style>', '</head>', '<body>', '<h1>A &amp; B</h1>', '<p>Text</p>']
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
