// Lets a reader of the report point at maps: values with errors, a cursor on all maps of the same grid, zoom, and colours of another range.
// It draws over the pictures, which stay as they are without this script and on paper. It needs no server and no library.
"use strict";
(() => {
  const NO_VALUE = 65535, GREY = [201, 206, 212], LEAST_CELLS = 4, STEP = 1.25, FINE = 1000, LARGEST_INDEX = 6;
  const figures = [], grids = new Map(); // name of a grid -> where the cursor is on it, {at: [row, column] or null}

  const bytesOf = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));

  async function unpack(packed, count) {
    const stream = new Blob([bytesOf(packed.bytes)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const planes = new Uint8Array(await new Response(stream).arrayBuffer());
    const size = planes.length / count, plain = new Uint8Array(planes.length);
    for (let b = 0; b < size; b++) for (let i = 0; i < count; i++) plain[i * size + b] = planes[b * count + i];
    if (packed.type === "f4") return new Float32Array(plain.buffer);
    return Float64Array.from(new Uint16Array(plain.buffer), n => n === NO_VALUE ? NaN : packed.low + packed.step * n);
  }
  function share(p, value) { // where a value is in the usual range of colours: 0 at its low end, 1 at its high end
    const [kind, low, high, power] = p.norm;
    if (kind === "log") return Math.log(Math.max(value, low) / low) / Math.log(high / low);
    const t = (value - low) / (high - low);
    return power === 1 || t <= 0 ? t : Math.pow(t, power);
  }
  function valueAt(p, t) {
    const [kind, low, high, power] = p.norm;
    return kind === "log" ? low * Math.pow(high / low, t) : low + (high - low) * (power === 1 || t <= 0 ? t : Math.pow(t, 1 / power));
  }
  const minus = text => text.replace("-", "−"), few = number => minus(String(Number(number.toPrecision(3))));

  function numeral(value, error) {
    if (Number.isNaN(value)) return "no value";
    if (!(error > 0) || !Number.isFinite(error)) return minus(String(Number(value.toPrecision(4))));
    const digits = Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(error))));
    return `${minus(value.toFixed(digits))} ± ${error.toFixed(digits)}`;
  }
  function lengthText(value, unit, extent = value) {
    if (unit === "Å" && extent >= 100) return `${Number((value / 10).toPrecision(4))} nm`;
    return `${Number(value.toPrecision(4))} ${unit === "1/Å" ? "Å⁻¹" : unit}`;
  }
  function placeText(p, [row, column]) {
    const named = { scan: "position", detector: "detector pixel", other: "pixel" }[p.axes];
    if (p.axes === "detector" || p.pixel[1] === "px") return `${named} (${row}, ${column})`;
    const [size, unit] = p.pixel, extent = size * Math.max(...p.shape);
    return `${named} (${row}, ${column}) = ${lengthText(row * size, unit, extent)}, ${lengthText(column * size, unit, extent)}`;
  }
  function inWords(p, i) { // what a colour stands for: a vector, a name, or an orientation
    const [a, b, c, ...uvw] = p.reading.maps.map(map => map[i]), degrees = v => minus(v.toFixed(1)) + "°";
    if (Number.isNaN(a)) return "no value";
    if (p.reading.kind === "name") return p.reading.names[a];
    if (p.reading.kind === "orientation") return `${direction(uvw)}, φ₁ ${degrees(a)}, Φ ${degrees(b)}, φ₂ ${degrees(c)}`;
    const length = Math.hypot(a, b);
    return `${numeral(length, NaN)} ${p.units}`.trim() + (length > 0 ? `, ${degrees(Math.atan2(b, a) * 180 / Math.PI)} from x towards y` : "");
  }
  function direction(uvw) { // in the smallest whole numbers that fit to 1 %, else in decimals
    for (let largest = 1; largest <= LARGEST_INDEX; largest++)
      if (uvw.every(n => Math.abs(n * largest - Math.round(n * largest)) < 0.01 * largest)) return `[${uvw.map(n => minus(String(Math.round(n * largest) + 0))).join(" ")}]`;
    return `[${uvw.map(n => minus(n.toFixed(2))).join(" ")}]`;
  }
  function read(f) {
    const said = [], grid = new Set();
    for (const p of f.panels) {
      const at = grids.get(p.grid).at;
      if (!at) continue;
      if (!grid.has(p.grid)) said.push(placeText(p, at));
      grid.add(p.grid);
      const i = at[0] * p.shape[1] + at[1], value = p.values[i], error = p.error ? p.error[i] : NaN;
      const text = p.reading ? inWords(p, i) : `${numeral(value, error)}${Number.isNaN(value) ? "" : " " + p.units}`;
      said.push(`${f.panels.length > 1 ? p.title.split(" = ")[0] + " " : ""}${text}`.trim());
    }
    f.output.textContent = said.length ? said.join(" · ") : "Point at the map for values.";
  }

  function painted(p, [low, high]) { // the map in the colours of a range, one pixel a value
    if (p.canvas && p.range[0] === low && p.range[1] === high) return p.canvas;
    const [rows, columns] = p.shape, canvas = document.createElement("canvas");
    Object.assign(canvas, { width: columns, height: rows });
    const image = new ImageData(columns, rows);
    for (let i = 0; i < p.values.length; i++) {
      if (p.reading) {
        p.reading.rgb.forEach((plane, c) => { image.data[4 * i + c] = plane[i]; });
        image.data[4 * i + 3] = 255;
        continue;
      }
      const t = (share(p, p.values[i]) - low) / (high - low);
      const k = 3 * Math.min(255, Math.max(0, Math.floor(256 * t)));
      for (let c = 0; c < 3; c++) image.data[4 * i + c] = Number.isNaN(t) ? GREY[c] : p.colours[k + c];
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
    p.canvas = canvas; p.range = [low, high];
    return canvas;
  }

  function inked(f, p) {
    const font = `${Math.max(9 * f.ratio, p.text * f.canvas.height)}px system-ui, sans-serif`;
    Object.assign(f.context, { fillStyle: "#1c2530", textBaseline: "middle", font });
  }
  function blank(f, [x, y, w, h]) {
    f.context.fillStyle = "#fff"; f.context.fillRect(x - 2, y - 2, w + 4, h + 4);
  }
  function drawScale(f, p, area, zoom) { // a bar of 1, 2 or 5 times a power of ten, of the zoomed map, in place of the picture's
    const [left, top, , high] = area(p.scale), wide = area(p.place)[2];
    const extent = 0.3 * p.shape[1] / zoom * p.pixel[0], power = Math.pow(10, Math.floor(Math.log10(extent)));
    const size = [5, 2, 1].map(n => n * power).find(n => n <= extent * (1 + 1e-9));
    const bar = size / (p.shape[1] / zoom * p.pixel[0]) * wide;
    blank(f, [left, top, Math.max(area(p.scale)[2], wide * 0.6), high]);
    inked(f, p);
    f.context.fillRect(left, top + high / 2 - 1.5 * f.ratio, bar, 3 * f.ratio);
    f.context.fillText(lengthText(size, p.pixel[1]), left + bar + 5 * f.ratio, top + high / 2);
  }

  function drawBar(f, p, area) {
    const c = f.context, [x, y, w, h] = area(p.bar), [low, high] = f.range;
    blank(f, area(p.numbers));
    for (let i = 0; i < h; i++) {
      const k = 3 * Math.min(255, Math.floor(256 * (1 - i / h)));
      c.fillStyle = `rgb(${p.colours[k]},${p.colours[k + 1]},${p.colours[k + 2]})`; c.fillRect(x, y + i, w, 1.5);
    }
    inked(f, p);
    [few(valueAt(p, high)), p.units, few(valueAt(p, low))].forEach((text, i) => c.fillText(text, x + w + 3, y + i * h / 2));
  }

  function draw(f) {
    const box = f.canvas.getBoundingClientRect(), c = f.context;
    f.ratio = window.devicePixelRatio || 1;
    f.canvas.width = Math.max(1, Math.round(box.width * f.ratio)); f.canvas.height = Math.max(1, Math.round(box.height * f.ratio));
    const area = ([l, t, w, h]) => [l * f.canvas.width, t * f.canvas.height, w * f.canvas.width, h * f.canvas.height];
    const changed = f.range[0] !== 0 || f.range[1] !== 1;
    c.imageSmoothingEnabled = false;
    for (const p of f.panels) {
      const [x, y, w, h] = area(p.place), [rows, columns] = p.shape, v = f.views.get(p.grid);
      if (v.zoom > 1 || changed) c.drawImage(painted(p, f.range), v.left, v.top, columns / v.zoom, rows / v.zoom, x, y, w, h);
      if (changed && p.bar) drawBar(f, p, area);
      if (v.zoom > 1 && p.scale) drawScale(f, p, area, v.zoom);
      const at = grids.get(p.grid).at, cellX = w * v.zoom / columns, cellY = h * v.zoom / rows;
      c.save(); c.beginPath(); c.rect(x, y, w, h); c.clip();
      if (at) {
        const left = x + (at[1] - v.left) * cellX, top = y + (at[0] - v.top) * cellY, side = Math.max(cellX, 7 * f.ratio);
        const [midX, midY] = [left + cellX / 2, top + cellY / 2];
        for (const [colour, width] of [["#ffffff", 3], ["#111111", 1.2]]) {
          Object.assign(c, { strokeStyle: colour, lineWidth: width * f.ratio });
          c.strokeRect(midX - side / 2, midY - side / 2, side, side);
        }
      }
      if (f.rubber && f.rubber.p === p) {
        const { from, to } = f.rubber;
        Object.assign(c, { strokeStyle: "#35d0ff", lineWidth: 1.5 * f.ratio });
        c.strokeRect(x + (from[1] - v.left) * cellX, y + (from[0] - v.top) * cellY, (to[1] - from[1]) * cellX, (to[0] - from[0]) * cellY);
      }
      c.restore();
    }
  }

  function under(f, event) { // panel, and row and column as real numbers
    const box = f.canvas.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    for (const p of f.panels) {
      const [l, t, w, h] = p.place, v = f.views.get(p.grid);
      if (x < l || x >= l + w || y < t || y >= t + h) continue;
      return { p, row: v.top + (y - t) / h * p.shape[0] / v.zoom, column: v.left + (x - l) / w * p.shape[1] / v.zoom };
    }
    return null;
  }

  function point(p, row, column) {
    const inside = (n, size) => Math.min(size - 1, Math.max(0, Math.floor(n)));
    grids.get(p.grid).at = [inside(row, p.shape[0]), inside(column, p.shape[1])];
    for (const f of figures) if (f.views.has(p.grid)) { read(f); draw(f); }
  }
  function look(f, p, zoom, top, left) {
    const v = f.views.get(p.grid), [rows, columns] = p.shape;
    v.zoom = Math.min(Math.max(1, zoom), Math.max(1, Math.min(rows, columns) / LEAST_CELLS));
    v.top = Math.min(Math.max(0, top), rows - rows / v.zoom); v.left = Math.min(Math.max(0, left), columns - columns / v.zoom);
    draw(f);
  }
  function zoomAt(f, p, row, column, factor) {
    const v = f.views.get(p.grid), zoom = Math.max(1, v.zoom * factor);
    look(f, p, zoom, row - (row - v.top) * v.zoom / zoom, column - (column - v.left) * v.zoom / zoom);
  }
  function zoomMiddle(f, factor) {
    const p = f.panels[0], v = f.views.get(p.grid), at = grids.get(p.grid).at;
    const [row, column] = at ? [at[0] + 0.5, at[1] + 0.5] : [v.top + p.shape[0] / v.zoom / 2, v.left + p.shape[1] / v.zoom / 2];
    zoomAt(f, p, row, column, factor);
  }
  function reset(f) {
    for (const v of f.views.values()) Object.assign(v, { zoom: 1, top: 0, left: 0 });
    f.range = [0, 1];
    f.sliders.forEach((s, i) => { s.value = String(FINE * (i - f.ends[0]) / (f.ends[1] - f.ends[0])); });
    f.numbers.textContent = "";
    draw(f);
  }
  function recolour(f) {
    const [a, b] = f.sliders.map(s => f.ends[0] + (f.ends[1] - f.ends[0]) * Number(s.value) / FINE);
    f.range = Math.abs(b - a) < 1e-3 ? [a, a + 1e-3] : [Math.min(a, b), Math.max(a, b)];
    const p = f.panels[0];
    f.numbers.textContent = `${f.range.map(t => few(valueAt(p, t))).join(" to ")} ${p.units} `;
    draw(f);
  }
  function listen(f) {
    let canvas = f.canvas, held = null;
    canvas.addEventListener("pointerdown", event => {
      const found = under(f, event);
      if (!found) return;
      point(found.p, found.row, found.column);
      if (event.pointerType === "touch") return; // a finger scrolls the page
      held = { ...found, view: { ...f.views.get(found.p.grid) } };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", event => {
      const found = under(f, event);
      if (held && found && found.p === held.p) {
        const v = f.views.get(held.p.grid);
        if (v.zoom > 1 && !f.rubber) look(f, held.p, v.zoom, v.top + held.row - found.row, v.left + held.column - found.column);
        else { f.rubber = { p: held.p, from: [held.row, held.column], to: [found.row, found.column] }; draw(f); }
      } else if (found && !held) point(found.p, found.row, found.column);
    });
    canvas.addEventListener("pointerup", () => {
      const drawn = f.rubber;
      held = f.rubber = null;
      if (!drawn) return;
      const { p, from, to } = drawn, [high, wide] = [Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1])];
      if (high >= 1 && wide >= 1) look(f, p, Math.min(p.shape[0] / high, p.shape[1] / wide), Math.min(from[0], to[0]), Math.min(from[1], to[1]));
      else draw(f);
    });
    canvas.addEventListener("wheel", event => {
      const found = under(f, event);
      if (!found || !(event.ctrlKey || document.activeElement === canvas)) return; // else the page scrolls
      event.preventDefault();
      zoomAt(f, found.p, found.row, found.column, event.deltaY < 0 ? STEP : 1 / STEP);
    }, { passive: false });
    canvas.addEventListener("dblclick", () => reset(f));
    canvas.addEventListener("keydown", event => {
      const p = f.panels[0], at = grids.get(p.grid).at || [p.shape[0] >> 1, p.shape[1] >> 1];
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (step) point(p, at[0] + step[0], at[1] + step[1]);
      else if (event.key === "+") zoomMiddle(f, STEP);
      else if (event.key === "-") zoomMiddle(f, 1 / STEP);
      else if (event.key === "0" || event.key === "Escape") reset(f);
      else return;
      event.preventDefault();
    });
  }

  function element(name, parent, properties = {}) {
    const made = Object.assign(document.createElement(name), properties);
    parent.append(made);
    return made;
  }
  function tools(f, figure) {
    f.output = element("output", figure, { className: "read" });
    figure.querySelector("figcaption").before(f.output);
    const box = element("details", figure, { className: "tools" });
    const scaled = f.panels.filter(p => !p.reading);
    element("summary", box, { textContent: scaled.length ? "Zoom and colours" : "Zoom" });
    element("p", box, { textContent: "Drag a box to zoom, drag to move. Click the map to scroll for zoom, use arrows, + and −. Double-click: as it was." });
    const ends = scaled.flatMap(p => Array.from(p.values).filter(Number.isFinite).map(v => share(p, v)).reduce((e, t) => [Math.min(e[0], t), Math.max(e[1], t)], [0, 1]));
    f.ends = [Math.min(...ends), Math.max(...ends)];
    f.sliders = (scaled.length ? ["from", "to"] : []).map(word => {
      const label = element("label", box, { textContent: `Colours ${word} ` });
      const slider = element("input", label, { type: "range", min: "0", max: String(FINE), step: "1" });
      slider.addEventListener("input", () => recolour(f));
      return slider;
    });
    f.numbers = element("span", box);
    const buttons = [["Zoom in", () => zoomMiddle(f, 1.6)], ["Zoom out", () => zoomMiddle(f, 1 / 1.6)], ["As it was", () => reset(f)]];
    for (const [text, action] of buttons) element("button", box, { type: "button", textContent: text }).addEventListener("click", action);
  }

  async function begin(figure) {
    const panels = JSON.parse(figure.querySelector("script.panels").textContent);
    for (const p of panels) {
      const count = p.shape[0] * p.shape[1];
      p.values = await unpack(p.values, count);
      p.error = p.error && await unpack(p.error, count);
      p.colours = bytesOf(p.colours);
      if (p.reading) for (const name of ["maps", "rgb"]) p.reading[name] = await Promise.all(p.reading[name].map(one => unpack(one, count)));
      if (!grids.has(p.grid)) grids.set(p.grid, { at: null });
    }
    const canvas = element("canvas", figure.querySelector(".shown"), { tabIndex: 0 });
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", `Map with values: ${panels.map(p => p.title).join(", ")}. Arrow keys move the cursor.`);
    const f = { canvas, context: canvas.getContext("2d"), panels, range: [0, 1], rubber: null };
    f.views = new Map(panels.map(p => [p.grid, { zoom: 1, top: 0, left: 0 }]));
    tools(f, figure); listen(f);
    figures.push(f);
    reset(f); read(f);
    new ResizeObserver(() => draw(f)).observe(canvas);
  }

  function enlargeButtons() { // pictures fit into the page, and become as large as their texts need
    for (const figure of document.querySelectorAll("figure")) {
      const button = element("button", figure.querySelector(".files"), { type: "button", textContent: "Enlarge", className: "enlarge" });
      const turn = () => {
        const large = figure.classList.toggle("large");
        button.textContent = large ? "Fit to the page" : "Enlarge";
        button.setAttribute("aria-pressed", large);
      };
      button.setAttribute("aria-label", `Enlarge: ${figure.querySelector("img").alt.split(". ")[0]}`);
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", turn);
      if (!figure.classList.contains("map")) figure.querySelector("img").addEventListener("click", turn);
    }
  }

  function copyButtons() {
    for (const part of document.querySelectorAll("[data-copy]")) {
      const button = element("button", part.parentElement, { type: "button", textContent: "Copy", className: "copy" });
      part.parentElement.insertBefore(button, part);
      button.addEventListener("click", async () => {
        try { await navigator.clipboard.writeText(part.textContent.trim()); button.textContent = "Copied"; } catch {
          getSelection().selectAllChildren(part); button.textContent = "Selected: copy it with the keyboard";
        }
      });
    }
  }

  function selftest() { // with #selftest in the address: point at a place of the first map, zoom, and leave what was read in the page
    const f = figures[0], p = f.panels[0], box = f.canvas.getBoundingClientRect(), [row, column] = [p.shape[0] >> 1, p.shape[1] >> 2];
    const clientX = box.left + box.width * (p.place[0] + p.place[2] * (column + 0.5) / p.shape[1]);
    const clientY = box.top + box.height * (p.place[1] + p.place[3] * (row + 0.5) / p.shape[0]);
    f.canvas.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
    const said = figures.map(one => one.output.textContent);
    f.canvas.dispatchEvent(new WheelEvent("wheel", { clientX, clientY, deltaY: -1, ctrlKey: true, cancelable: true }));
    const zoom = f.views.get(p.grid).zoom;
    f.sliders[1].value = "900"; f.sliders[1].dispatchEvent(new Event("input"));
    document.documentElement.dataset.selftest = JSON.stringify({ figures: figures.length, at: [row, column], said, zoom, range: f.range });
  }

  async function start() {
    copyButtons();
    enlargeButtons();
    if (typeof DecompressionStream === "undefined") return; // an old browser shows the pictures alone
    for (const figure of document.querySelectorAll("figure.map")) await begin(figure);
    if (location.hash === "#selftest" && figures.length) selftest();
  }
  start();
})();
