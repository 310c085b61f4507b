"""What a report is made of: headings, gates, pictures, table heads, the program's version, its script and its style."""

import html
import re


def structure(text):
    """Return the parts of a report that every run of the same kind has, whatever its numbers are."""
    sections = re.findall(r"<section[^>]*>(.*?)</section>", text, flags=re.S)
    gates = next((part for part in sections if "<h2>Quality gates</h2>" in part), "")
    methods = re.search(r"<p data-copy>(.*?)</p>", text, flags=re.S)
    return {
        "headings": re.findall(r"<h2>(.*?)</h2>", text),
        "gates": [html.unescape(name) for name in re.findall(r'<td class="name"[^>]*>(.*?)</td>', gates)],
        "pictures": re.findall(r'<a href="([^"]*\.png)">', text),
        "heads of tables": re.findall(r"<th [^>]*>(.*?)</th>", text),
        "stages": re.findall(r'data-head="stage">(.*?)</td>', text),
        "settings": re.findall(r'<td class="name">([a-z_]+\.[a-z_0-9]+)</td>', text),
        "references": re.findall(r"@\w+\{(\w+),", text),
        "names of scans": re.findall(r"(?:^|\n\n)(\w[\w ]*): A 4D-STEM scan", methods[1] if methods else ""),
        "version": re.findall(r"· gpu4d (\S+) ·", text),
    }
