"""Look for texts of a page in a browser that have too little contrast with what is behind them (WCAG 2, level AA)."""

LEAST, LEAST_LARGE = 4.5, 3.0  # of texts, and of those of 24 px, or of 18.7 px in bold

SCRIPT = """(() => {
  const numbers = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  function behind(node) {
    for (let at = node; at; at = at.parentElement) {
      const [r, g, b, a] = numbers(getComputedStyle(at).backgroundColor);
      if (r !== undefined && (a === undefined || a > 0)) return [r, g, b];
    }
    return [255, 255, 255];
  }
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || !node.checkVisibility() || ["SCRIPT", "STYLE"].includes(node.tagName)) continue;
    const style = getComputedStyle(node), [high, low] = [light(numbers(style.color)), light(behind(node))].sort((a, b) => b - a);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const ratio = (high + 0.05) / (low + 0.05);
    found.push([ratio, large, text.slice(0, 40)]);
  }
  return found;
})()"""


def faint_texts(browser):
    """Return (ratio, text) of all texts below the least contrast, and how many texts there were."""
    found = browser.run(SCRIPT)
    return [(ratio, text) for ratio, large, text in found if ratio < (LEAST_LARGE if large else LEAST)], len(found)
