// The viewer: a pattern with a virtual detector on the left, an image of the scan on the right.

const GRIP = 9; // pixels of the screen around an edge by which it is dragged
const TICK = 0.5; // detector pixels: dragging moves a detector in these steps, so that its numbers stay short

// Show a scan in an element, and return what a test or a notebook may look at.
async function mount(root, source) {
  const { about, ask } = source, [rx, ry] = about.scan, [qx, qy] = about.detector;
  const state = { detector: { ...about.start }, position: [rx >> 1, ry >> 1], region: null, line: null, drawn: {}, shows: "mean", map: "", tool: "position", follow: about.follow === true };
  const marks = { detector: true, disks: true, lattice: true, ellipse: true };
  const timing = { images: 0, milliseconds: 0, last: 0 };

  const pattern = new Panel("diffraction pattern", "inferno", drawOverPattern, "Arrow keys move the detector, + and − resize it.");
  const image = new Panel("image of the scan", "gray", drawOverImage, "Arrow keys move the position, or the other end of a region or profile.");
  pattern.look.scale = pattern.scaleChoice.value = "log";
  const status = element("p", { class: "status", role: "status" }, "…"), error = element("p", { class: "error", role: "alert", hidden: true });
  const profile = element("canvas", { class: "profile", hidden: true, role: "img", "aria-label": "line profile" });

  // ------------------------------------------------------------ asking

  const fail = (problem) => {
    error.textContent = problem.message.includes("fetch") ? "The viewer has ended: start `gpu4d view` again." : problem.message;
    error.hidden = false;
  };
  const askImage = newestOf(ask, showImage, fail), askPattern = newestOf(ask, showPattern, fail);

  function showImage({ said, values }, request, start) {
    error.hidden = true;
    const listed = about.maps.find((m) => m.name === said.name);
    image.show({ values, rows: rx, columns: ry, units: said.units, signed: Boolean(listed?.signed) });
    if (state.line) drawLine();
    Object.assign(timing, { images: timing.images + 1, milliseconds: performance.now() - start, last: performance.now() });
    state.exact = said.exact;
    status.textContent = said.name
      ? `${said.name}${said.units && said.units !== "1" ? `, ${said.units}` : ""}`
      : `${describe(request.detector)}${request.follow ? ", following the beam" : ""} · ${said.pixels} pixels · ${said.note ?? (said.exact ? "exact" : "approximate while dragging")} · ${Math.round(timing.milliseconds)} ms`;
  }

  function showPattern({ said, values }) {
    error.hidden = true;
    state.drawn = said;
    pattern.show({ values, rows: qx, columns: qy, units: "counts", signed: false });
  }

  // Ask for the image under the detector. `rest` says that it is not being dragged, so that there is time for the exact one.
  function detectorMoved(rest = true) {
    state.map = what.value = "";
    for (const [key, input] of Object.entries(numbers)) input.value = number(key === "x" ? state.detector.center[0] : key === "y" ? state.detector.center[1] : state.detector[key]);
    showNumbers();
    pattern.lay();
    if (image.look.colours === "blue-red") image.colourChoice.value = image.look.colours = "gray";
    const request = { ask: "image", detector: { ...state.detector }, follow: state.follow };
    askImage({ ...request, exact: about.exact, slow: false });
    if (rest && !about.exact) askImage({ ...request, exact: true, slow: true });
  }

  function chooseMap(name) {
    state.map = what.value = name;
    image.fixed = false;
    if (!name) return detectorMoved();
    image.colourChoice.value = image.look.colours = about.maps.find((m) => m.name === name).signed ? "blue-red" : "viridis";
    askImage({ ask: "map", name, slow: false });
  }

  function choosePattern(shows) {
    state.shows = patternChoice.value = shows;
    if (shows === "position") askPattern({ ask: "pattern", position: state.position });
    else if (shows !== "region") askPattern({ ask: "summary", name: shows });
    else if (state.region) askPattern({ ask: "region", rows: state.region[0], columns: state.region[1] });
    else setTool("region");
    image.lay();
  }

  // ------------------------------------------------------------ describing

  const length = (pixels, pixel) => `${number(pixels * pixel.size, 3)} ${pixel.unit}`;
  const angle = (pixels) => (about.mrad ? `${number(pixels * about.mrad, 3)} mrad` : length(pixels, about.q));
  function describe(d) {
    const centre = `(${number(d.center[0])}, ${number(d.center[1])})`;
    if (d.shape === "disk") return `disk at ${centre}, radius ${number(d.outer)} px${about.q.unit === "px" ? "" : ` = ${angle(d.outer)}`}`;
    if (d.shape === "annulus") return `annulus at ${centre}, ${number(d.inner)} to ${number(d.outer)} px${about.q.unit === "px" ? "" : ` = ${angle(d.inner)} to ${angle(d.outer)}`}`;
    return `rectangle at ${centre}, ${number(d.height)} × ${number(d.width)} px`;
  }

  function read(panel, names, event) {
    if (!panel.image) return;
    const [x, y] = panel.under(event).map(Math.round), { rows, columns, values, units } = panel.image;
    const inside = x >= 0 && y >= 0 && x < rows && y < columns;
    const origin = about.origin, away = inside && panel === pattern && origin ? ` · ${angle(Math.hypot(x - origin[0], y - origin[1]))} from the origin` : "";
    panel.readout.textContent = inside ? `${names} = (${x}, ${y}) · ${number(values[x * columns + y], 6)} ${units === "1" ? "" : units}${away}` : "\u00a0";
  }

  // ------------------------------------------------------------ drawing

  // How far the detector lies from its centre in the pattern that is shown: that of a position, if it follows the beam.
  function moved() {
    const here = state.drawn.origin;
    return state.follow && state.drawn.position && here ? [here[0] - about.origin[0], here[1] - about.origin[1]] : [0, 0];
  }
  const centre = () => state.detector.center.map((v, i) => v + moved()[i]);
  const pointer = (event) => pattern.under(event).map((v, i) => v - moved()[i]); // where it is, seen from a detector that has not moved

  // The ellipse on the detector that a circle of a radius becomes: the inverse of the matrix that makes it round.
  const [[a, b], [c, d]] = about.ellipse ?? [[1, 0], [0, 1]], det = a * d - b * c;
  const stretched = (radius, t) => [(radius * (d * Math.cos(t) - b * Math.sin(t))) / det, (radius * (a * Math.sin(t) - c * Math.cos(t))) / det];
  function ring(context, panel, [x, y], radius) {
    for (let i = 0; i <= 72; i++) {
      const [u, v] = stretched(radius, (i * Math.PI) / 36), at = panel.at([x + u, y + v]);
      i ? context.lineTo(...at) : context.moveTo(...at);
    }
  }

  function drawOverPattern(context, place) {
    const shown = state.drawn, origin = shown.origin ?? about.origin;
    const small = Math.max(4, (about.start.outer * place.zoom) / 4);
    context.save();
    context.beginPath();
    context.rect(place.left, place.top, place.columns * place.zoom, place.rows * place.zoom);
    context.clip();
    if (marks.ellipse && about.ellipse && origin) {
      context.setLineDash([7, 5]);
      stroke(context, SECOND_MARK, (p) => ring(p, pattern, origin, 0.4 * Math.min(qx, qy)), 1.5);
      context.setLineDash([]);
    }
    if (marks.disks && shown.position)
      for (const disk of shown.disks ?? []) {
        const [u, v] = pattern.at(disk);
        stroke(context, SECOND_MARK, (p) => p.arc(u, v, small, 0, 7), 1.5);
      }
    if (origin) {
      const [u, v] = pattern.at(origin);
      stroke(context, "#fff", (p) => (p.moveTo(u - 6, v), p.lineTo(u + 6, v), p.moveTo(u, v - 6), p.lineTo(u, v + 6)), 1.5);
    }
    const lattice = shown.position && shown.lattice !== undefined ? shown.lattice : about.lattice; // null: none was fitted at the position
    if (marks.lattice && lattice && origin)
      lattice.forEach((g, i) => {
        const [from, to] = [pattern.at(origin), pattern.at([origin[0] + g[0], origin[1] + g[1]])];
        stroke(context, "#7dff8a", (p) => (p.moveTo(...from), p.lineTo(...to)), 2);
        label(context, `g${i + 1}`, to[0] + 6, to[1] - 6);
      });
    if (marks.detector) drawDetector(context);
    context.restore();
    drawScaleBar(context, place, about.q);
    drawAxes(context, place, ["qx", "qy"]);
  }

  function drawDetector(context) {
    const { shape, outer, inner, height, width } = state.detector, center = centre();
    const path = (p) => {
      if (shape === "rectangle") {
        const [u, v] = pattern.at([center[0] - height / 2, center[1] - width / 2]), { zoom } = pattern.place();
        p.rect(u, v, width * zoom, height * zoom);
      } else ring(p, pattern, center, outer);
      if (shape === "annulus") ring(p, pattern, center, inner);
    };
    context.beginPath();
    path(context);
    context.fillStyle = "rgba(255,176,0,.16)";
    context.fill("evenodd");
    stroke(context, MARK, path);
  }

  function drawOverImage(context, place) {
    const [u, v] = image.at(state.position), gap = Math.max(4, place.zoom * 0.6);
    if (state.shows === "position")
      stroke(context, SECOND_MARK, (p) => {
        for (const [e, f] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) (p.moveTo(u + e * gap, v + f * gap), p.lineTo(u + e * (gap + 10), v + f * (gap + 10)));
        p.rect(u - place.zoom / 2, v - place.zoom / 2, place.zoom, place.zoom);
      }, 1.5);
    if (state.region) {
      const [[r0, r1], [c0, c1]] = state.region, [left, top] = image.at([r0 - 0.5, c0 - 0.5]);
      stroke(context, MARK, (p) => p.rect(left, top, (c1 - c0) * place.zoom, (r1 - r0) * place.zoom), 1.5);
    }
    if (state.line) {
      const [from, to] = state.line.map((p) => image.at(p));
      stroke(context, "#7dff8a", (p) => (p.moveTo(...from), p.lineTo(...to)));
    }
    drawScaleBar(context, place, about.r);
    drawAxes(context, place, ["rx", "ry"]);
  }

  function drawLine() {
    const [from, to] = state.line, pixels = Math.hypot(to[0] - from[0], to[1] - from[1]);
    profile.hidden = false;
    drawProfile(profile, along(image.image, from, to), pixels * about.r.size, about.r.unit, image.image.units === "1" ? "" : image.image.units);
    image.lay();
  }

  new ResizeObserver(() => state.line && !profile.hidden && drawLine()).observe(profile);

  // ------------------------------------------------------------ dragging the detector

  const tick = (v) => Math.round(v / TICK) * TICK;
  const keep = (center) => [Math.max(0, Math.min(qx - 1, center[0])), Math.max(0, Math.min(qy - 1, center[1]))];

  // Return what a pointer takes hold of: an edge of the detector, or the whole of it.
  function grip(event) {
    const [x, y] = pointer(event), { center, shape, outer, inner, height, width } = state.detector, { zoom } = pattern.place();
    const u = x - center[0], v = y - center[1], near = (distance) => Math.abs(distance) * zoom < GRIP;
    if (shape === "rectangle") {
      const [h, w] = [Math.abs(u) - height / 2, Math.abs(v) - width / 2];
      return near(h) && w < GRIP / zoom ? (near(w) ? "corner" : "height") : near(w) && h < GRIP / zoom ? "width" : "center";
    }
    const radius = Math.hypot(a * u + b * v, c * u + d * v);
    return near(radius - outer) && outer * zoom > GRIP ? "outer" : shape === "annulus" && near(radius - inner) ? "inner" : "center";
  }

  function pull(what, [x, y], offset) {
    const own = state.detector, u = x - own.center[0], v = y - own.center[1], radius = tick(Math.hypot(a * u + b * v, c * u + d * v));
    if (what === "center") own.center = keep([tick(x - offset[0]), tick(y - offset[1])]);
    if (what === "outer") own.outer = Math.max(own.shape === "annulus" ? own.inner + TICK : TICK, radius);
    if (what === "inner") own.inner = Math.max(0, Math.min(own.outer - TICK, radius));
    if (what === "height" || what === "corner") own.height = Math.max(1, tick(2 * Math.abs(u)));
    if (what === "width" || what === "corner") own.width = Math.max(1, tick(2 * Math.abs(v)));
  }

  dragged(pattern, (event) => {
    const what = grip(event), start = pointer(event), { center, shape, outer, height, width } = state.detector;
    const u = start[0] - center[0], v = start[1] - center[1];
    const inside = shape === "rectangle" ? Math.abs(u) < height / 2 && Math.abs(v) < width / 2 : Math.hypot(a * u + b * v, c * u + d * v) < outer;
    const offset = inside ? [u, v] : [0, 0]; // a click outside brings the detector there
    if (!inside && what === "center") (pull(what, start, offset), detectorMoved(false));
    return { move: (e) => (pull(what, pointer(e), offset), detectorMoved(false)), end: () => detectorMoved(true) };
  });
  pattern.canvas.addEventListener("pointermove", (event) => {
    read(pattern, "(qx, qy)", event);
    pattern.canvas.style.cursor = { center: "move", outer: "ew-resize", inner: "ew-resize", height: "ns-resize", width: "ew-resize", corner: "nwse-resize" }[grip(event)];
  });

  // ------------------------------------------------------------ choosing positions, regions and lines

  const whole = ([x, y]) => [Math.max(0, Math.min(rx - 1, Math.round(x))), Math.max(0, Math.min(ry - 1, Math.round(y)))];
  function pick(position) {
    state.position = position;
    state.end = null; // of a region or a profile that keys draw
    choosePattern("position");
    const said = `(rx, ry) = (${position[0]}, ${position[1]})`;
    image.readout.textContent = `${said} · ${number(image.image.values[position[0] * ry + position[1]], 6)} ${image.image.units === "1" ? "" : image.image.units}`;
  }

  dragged(image, (event) => {
    const start = image.under(event), first = whole(start), clamp = ([x, y]) => [Math.max(0, Math.min(rx - 1, x)), Math.max(0, Math.min(ry - 1, y))];
    if (state.tool === "position") {
      pick(first);
      return { move: (e) => pick(whole(image.under(e))), end: () => {} };
    }
    if (state.tool === "profile") {
      const draw = (e) => ((state.line = [clamp(start), clamp(image.under(e))]), drawLine());
      return { move: draw, end: () => {} };
    }
    const grow = (e) => {
      const last = whole(image.under(e)), range = (i) => [Math.min(first[i], last[i]), Math.max(first[i], last[i]) + 1];
      state.region = [range(0), range(1)];
      image.lay();
    };
    grow(event);
    return { move: grow, end: () => choosePattern("region") };
  });
  image.canvas.addEventListener("pointermove", (event) => read(image, "(rx, ry)", event));

  // Call `begin` when a pointer goes down on a panel, `move` while it is down, and `end` when it is lifted.
  function dragged(panel, begin) {
    let under = null;
    panel.canvas.addEventListener("pointerdown", (event) => {
      if (event.button || !panel.image) return;
      panel.canvas.setPointerCapture(event.pointerId);
      panel.canvas.focus({ preventScroll: true });
      under = begin(event);
    });
    panel.canvas.addEventListener("pointermove", (event) => under?.move(event));
    for (const name of ["pointerup", "pointercancel"]) panel.canvas.addEventListener(name, (event) => (under?.end(event), (under = null)));
  }

  // ------------------------------------------------------------ keys

  const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  pattern.canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], by = event.shiftKey ? 5 : 1, own = state.detector;
    if (step) own.center = keep([own.center[0] + by * step[0], own.center[1] + by * step[1]]);
    else if (event.key === "+" || event.key === "-") resize(event.key === "+" ? TICK : -TICK);
    else return;
    event.preventDefault();
    detectorMoved();
  });
  image.canvas.addEventListener("keydown", (event) => {
    const step = STEPS[event.key], by = event.shiftKey ? 5 : 1;
    if (!step) return;
    event.preventDefault();
    const from = state.tool === "position" ? state.position : state.end ?? state.position, to = whole([from[0] + by * step[0], from[1] + by * step[1]]);
    if (state.tool === "position") return pick(to);
    state.end = to;
    if (state.tool === "profile") return (state.line = [state.position, to]), drawLine();
    state.region = [0, 1].map((i) => [Math.min(state.position[i], to[i]), Math.max(state.position[i], to[i]) + 1]);
    choosePattern("region");
  });
  function resize(by) {
    const own = state.detector;
    if (own.shape === "rectangle") (own.height = Math.max(1, own.height + by), own.width = Math.max(1, own.width + by));
    else own.outer = Math.max(own.shape === "annulus" ? own.inner + TICK : TICK, own.outer + by);
  }

  // ------------------------------------------------------------ controls

  const typed = (key, set) => element("input", { type: "number", step: TICK, "aria-label": `detector: ${key}`, onchange: (e) => Number.isFinite(e.target.valueAsNumber) && (set(e.target.valueAsNumber), detectorMoved()) });
  const numbers = { x: typed("centre qx", (v) => (state.detector.center = keep([v, state.detector.center[1]]))), y: typed("centre qy", (v) => (state.detector.center = keep([state.detector.center[0], v]))) };
  for (const [key, name] of [["inner", "inner radius"], ["outer", "radius"], ["height", "height"], ["width", "width"]])
    numbers[key] = typed(name, (v) => {
      const own = state.detector;
      own[key] = Math.max(key === "inner" ? 0 : TICK, v);
      if (own.inner >= own.outer) key === "inner" ? (own.outer = own.inner + TICK) : (own.inner = Math.max(0, own.outer - TICK));
    });
  const words = { x: "qx", y: "qy", inner: "inner r", outer: "r", height: "height", width: "width" };
  const fields = Object.fromEntries(Object.entries(numbers).map(([key, input]) => [key, element("label", {}, words[key], input)]));
  function showNumbers() {
    const used = { disk: ["outer"], annulus: ["inner", "outer"], rectangle: ["height", "width"] }[state.detector.shape];
    for (const [key, field] of Object.entries(fields)) field.hidden = !(key === "x" || key === "y" || used.includes(key));
  }
  const shapes = choice("detector: shape", ["disk", "annulus", "rectangle"], state.detector.shape, (v) => ((state.detector.shape = v), detectorMoved()));
  const patternChoice = choice("pattern that is shown", [["mean", "mean pattern"], ["max", "maximum pattern"], ["position", "pattern of a position"], ["region", "mean of a region"]], "mean", choosePattern);
  const what = choice("image that is shown", [["", "virtual image"], ...about.maps.map((m) => m.name)], "", chooseMap);
  const tools = element("span", { class: "tools", role: "group", "aria-label": "what dragging on the image does" });
  function setTool(tool) {
    state.tool = tool;
    for (const button of tools.children) button.setAttribute("aria-pressed", button.value === tool);
  }
  for (const [tool, title] of [["position", "show the pattern of a position"], ["region", "show the mean pattern of a rectangle"], ["profile", "show values along a line"]])
    tools.append(element("button", { type: "button", value: tool, title, onclick: () => setTool(tool) }, tool));
  setTool("position");
  const shown = element("span", { class: "marks" });
  for (const [key, text, there] of [["detector", "detector", true], ["disks", "disks", about.disks], ["lattice", "g1, g2", about.lattice || about.local], ["ellipse", "ellipse", about.ellipse]])
    if (there) shown.append(element("label", {}, element("input", { type: "checkbox", checked: true, onchange: (e) => ((marks[key] = e.target.checked), pattern.lay()) }), text));

  if (about.follow !== null && about.follow !== undefined) {
    const title = "the detector moves with the unscattered beam, whose place at every position is known";
    const follow = element("input", { type: "checkbox", checked: state.follow, onchange: () => ((state.follow = follow.checked), detectorMoved()) });
    shown.append(element("label", { class: "follow", title }, follow, "follow the beam"));
  }

  const row = (...children) => element("div", { class: "row" }, ...children);
  const size = `${rx}×${ry} positions · ${qx}×${qy} detector pixels`;
  root.replaceChildren(
    element("header", {}, element("h1", {}, about.title), element("span", { class: "muted" }, size)),
    ...about.notes.map((note) => element("p", { class: "note" }, note)),
    error,
    element(
      "div",
      { class: "panels" },
      element("section", { "aria-label": "pattern" }, row(patternChoice, pattern.looks), pattern.canvas, pattern.readout, pattern.limits, row(shapes, ...Object.values(fields)), row(shown)),
      element("section", { "aria-label": "image" }, row(what, image.looks), image.canvas, image.readout, image.limits, row(tools), status, profile),
    ),
    element("p", { class: "muted help" }, "Drag the detector, or its edge. Keys on the pattern: arrows move it (Shift: by 5 px), + and − resize it. Keys on the image: arrows move the position; with region or profile chosen, they move its other end."),
  );
  showNumbers();
  choosePattern("mean");
  detectorMoved();
  root.dataset.state = "ready";
  return { state, timing, pattern, image, about, ask, detectorMoved, choosePattern, chooseMap, setTool, pick };
}

const startFromServer = async (root) => mount(root, await serverSource());
const startFromPage = async (root, data) => mount(root, await pageSource(JSON.parse(data.textContent)));
