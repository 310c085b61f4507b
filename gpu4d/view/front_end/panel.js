// A picture with its controls: colours, limits, histogram, saving. It knows nothing of scans.

// Make an element with attributes, and put others into it.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "class") made.className = value;
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function choice(name, options, value, changed) {
  const made = element("select", { "aria-label": name, onchange: () => changed(made.value) });
  for (const option of options) {
    const [key, text] = Array.isArray(option) ? option : [option, option];
    made.append(element("option", { value: key, ...(key === value ? { selected: true } : {}) }, text));
  }
  return made;
}

// An image with its colours, limits and histogram. `over` draws what lies on it.
class Panel {
  constructor(name, colours, over, keys) {
    this.look = { colours, scale: "linear", low: 0, high: 1 };
    this.over = over;
    this.fixed = false; // limits that the reader has set stay for the next images
    this.canvas = element("canvas", { class: "plane", tabindex: "0", role: "application", "aria-label": `${name}. ${keys}` });
    this.readout = element("output", { class: "readout", "aria-live": "off" }, "\u00a0");
    this.histogram = element("canvas", { class: "histogram", "aria-hidden": "true" });
    this.offscreen = document.createElement("canvas");
    const limit = (key) =>
      element("input", { type: "number", step: "any", "aria-label": `${name}: ${key} limit`, onchange: () => this.setLimit(key, +this[key].value) });
    [this.low, this.high] = [limit("low"), limit("high")];
    this.colourChoice = choice(`${name}: colours`, Object.keys(COLOURS), colours, (v) => ((this.look.colours = v), this.redraw()));
    this.scaleChoice = choice(`${name}: scale`, Object.keys(SCALES), "linear", (v) => this.setScale(v));
    const again = element("button", { type: "button", title: "limits from the values", onclick: () => ((this.fixed = false), this.show(this.image)) }, "auto");
    const save = element("button", { type: "button", title: "save this picture as PNG", onclick: () => this.save(name) }, "PNG");
    this.limits = element("div", { class: "limits" }, this.low, this.histogram, this.high, again);
    this.looks = element("span", { class: "looks" }, this.scaleChoice, this.colourChoice, save);
    this.histogram.addEventListener("pointerdown", (event) => this.dragLimit(event));
    new ResizeObserver(() => this.redraw()).observe(this.canvas);
  }

  // Take the values of a new image: {values, rows, columns, units, signed}.
  show(image) {
    if (!image) return;
    this.image = image;
    this.sorted = sortedFinite(image.values);
    if (!this.fixed) [this.look.low, this.look.high] = goodLimits(this.sorted, this.look.scale, image.signed);
    const least = this.look.scale === "log" ? this.look.low : this.sorted[0] ?? 0;
    this.range = [Math.min(this.look.low, least), Math.max(this.look.high, this.sorted[this.sorted.length - 1] ?? 1)];
    this.counts = countBins(this.sorted, this.look.scale, ...this.range);
    this.redraw();
  }

  setScale(scale) {
    this.look.scale = scale;
    this.scaleChoice.value = scale;
    this.fixed = false;
    this.show(this.image);
  }

  setLimit(key, value) {
    if (!Number.isFinite(value)) return;
    this.look[key] = value;
    this.fixed = true;
    this.redraw();
  }

  // Return where a value lies on the histogram, as a part of its width; and the value at such a part.
  part(value) {
    const { of } = SCALES[this.look.scale], [low, high] = this.range.map(of);
    return (of(value) - low) / (high - low || 1);
  }

  valueAt(part) {
    const { of, back } = SCALES[this.look.scale], [low, high] = this.range.map(of);
    return back(low + Math.max(0, Math.min(1, part)) * (high - low));
  }

  dragLimit(event) {
    const at = (e) => e.offsetX / this.histogram.clientWidth, [low, high] = [this.part(this.look.low), this.part(this.look.high)];
    const key = Math.abs(at(event) - low) < Math.abs(at(event) - high) ? "low" : "high";
    this.histogram.setPointerCapture(event.pointerId);
    const move = (e) => this.setLimit(key, this.valueAt(key === "low" ? Math.min(at(e), high - 0.005) : Math.max(at(e), low + 0.005)));
    this.histogram.onpointermove = move;
    this.histogram.onpointerup = this.histogram.onpointercancel = () => (this.histogram.onpointermove = null);
    move(event);
  }

  // Where the image lies in its canvas: it is as large as fits.
  place() {
    const { rows, columns } = this.image, { clientWidth: width, clientHeight: height } = this.canvas;
    const zoom = Math.min(width / columns, height / rows);
    return { zoom, rows, columns, left: (width - zoom * columns) / 2, top: (height - zoom * rows) / 2 };
  }

  // Return where a pixel lies on the canvas, [across, down], for the centre of a pixel at whole numbers.
  at([x, y]) {
    const { zoom, left, top } = this.place();
    return [left + (y + 0.5) * zoom, top + (x + 0.5) * zoom];
  }

  // Return the pixel under a pointer, [x, y].
  under(event) {
    const { zoom, left, top } = this.place();
    return [(event.offsetY - top) / zoom - 0.5, (event.offsetX - left) / zoom - 0.5];
  }

  redraw() {
    if (!this.image || !this.canvas.clientWidth) return;
    paint(this.offscreen, this.image, this.look);
    this.lay();
    drawHistogram(this.histogram, this.counts, [this.part(this.look.low), this.part(this.look.high)]);
    for (const key of ["low", "high"]) if (document.activeElement !== this[key]) this[key].value = number(this.look[key]);
  }

  // Draw the image that is painted, and what lies on it.
  lay() {
    if (!this.image) return;
    const { context } = sized(this.canvas), place = this.place();
    context.imageSmoothingEnabled = false;
    context.drawImage(this.offscreen, place.left, place.top, place.columns * place.zoom, place.rows * place.zoom);
    this.over(context, place);
  }

  save(name) {
    this.canvas.toBlob((blob) => {
      const link = element("a", { href: URL.createObjectURL(blob), download: `${name.replace(/\W+/g, "-")}.png` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    });
  }
}
