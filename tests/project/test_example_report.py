"""The report in docs/examples: it has the script, the style and the version of today. A slow test compares it with a fresh demo."""

import re
from pathlib import Path

import gpu4d
from gpu4d.workflow.report.report import _part

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "report.html"
RENEW = "renew it: gpu4d demo && python docs/demo_pictures.py gpu4d-demo"
MOST = 1_500_000  # bytes: everybody who clones the project loads it


def test_the_example_has_the_script_the_style_and_the_version_of_today():
    text, template = EXAMPLE.read_text(encoding="utf-8"), _part("report.html")
    (style,), (own,) = (re.findall(r"<style>(.*?)</style>", one, flags=re.S) for one in (text, template))
    assert style == own, RENEW
    (script,) = re.findall(r"<script>(.*?)</script>", text, flags=re.S)
    assert script == _part("maps.js"), RENEW
    assert f"· gpu4d {gpu4d.__version__} ·" in text, RENEW


def test_the_example_is_small_and_names_no_folder_of_the_machine_that_made_it():
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST
    assert not re.search(
        r"(/tmp/|/home/|/work/|/root/|/Users/|[A-Z]:\\\\)[\w.]", re.sub(r"base64,[A-Za-z0-9+/=]+|\"bytes\":\"[^\"]*\"", "", text)
    )
