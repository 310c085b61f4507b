// Draw images of numbers: colours, limits, scale bars, histograms and profiles.
// x is the first axis and goes down, y is the second and goes right, as everywhere in gpu4d.

const COLOURS = { // evenly spaced anchors, between which colours are interpolated
  gray: ["#000000", "#ffffff"],
  viridis: ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#fde725"],
  inferno: ["#000004", "#210c4a", "#57106e", "#8a226a", "#bc3754", "#e45a31", "#f98e09", "#f9cb35", "#fcffa4"],
  "blue-red": ["#053061", "#2166ac", "#4393c3", "#92c5de", "#f7f7f7", "#f4a582", "#d6604d", "#b2182b", "#67001f"],
};
const NOT_A_NUMBER = 0xff8a8378; // grey of values that are not known: positions not visited, masked pixels
const MARK = "#ffb000", SECOND_MARK = "#35d0ff"; // seen on dark and on bright, and by the colour-blind
const HISTOGRAM_BINS = 96;

// Return 256 colours as the bytes of a canvas have them.
function colourTable(name) {
  const anchors = COLOURS[name].map((c) => [1, 3, 5].map((i) => parseInt(c.slice(i, i + 2), 16)));
  const table = new Uint32Array(256);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (anchors.length - 1), low = Math.min(Math.floor(at), anchors.length - 2), t = at - low;
    const [r, g, b] = [0, 1, 2].map((k) => Math.round(anchors[low][k] * (1 - t) + anchors[low + 1][k] * t));
    table[i] = 0xff000000 | (b << 16) | (g << 8) | r;
  }
  return table;
}

// Functions that brightness is proportional to, and their inverses. Both of the others show weak spots beside strong ones.
const SCALES = {
  linear: { of: (v) => v, back: (t) => t },
  power: { of: (v) => Math.sign(v) * Math.sqrt(Math.abs(v)), back: (t) => t * Math.abs(t) },
  log: { of: (v) => Math.log10(Math.max(v, 1e-12)), back: (t) => 10 ** t },
};

// Return the finite values of an image, sorted.
function sortedFinite(values) {
  const finite = values.filter(Number.isFinite);
  finite.sort();
  return finite;
}

// Return limits that leave out the most extreme values. Of values on both sides of zero they are symmetric.
function goodLimits(sorted, scale, signed, share = 0.002) {
  if (!sorted.length) return [0, 1];
  const at = (part) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.round(part * (sorted.length - 1))))];
  let low = at(share), high = at(1 - share);
  if (signed) {
    const both = Math.max(Math.abs(low), Math.abs(high)) || 1;
    return [-both, both];
  }
  if (scale !== "linear") high = sorted[sorted.length - 1];
  if (scale === "log") {
    const positive = sorted.find((v) => v > 0) ?? 1e-12;
    low = Math.max(positive, high * 1e-5);
  }
  return high > low ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

// Write an image into a canvas of its own size.
function paint(canvas, image, look) {
  const { values, rows, columns } = image, table = colourTable(look.colours);
  const { of } = SCALES[look.scale], low = of(look.low), span = of(look.high) - low || 1;
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), picture = context.createImageData(columns, rows);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < pixels.length; i++) {
    const v = values[i];
    if (Number.isNaN(v)) pixels[i] = NOT_A_NUMBER;
    else pixels[i] = table[Math.max(0, Math.min(255, Math.round((255 * (of(v) - low)) / span)))];
  }
  context.putImageData(picture, 0, 0);
}

// Return a length of 1, 2 or 5 times a power of ten that takes about a quarter of an image, with its label.
function scaleBar(pixels, pixel) {
  const whole = pixels * pixel.size, rough = whole / 4, power = 10 ** Math.floor(Math.log10(rough));
  let length = [5, 2, 1].find((k) => k * power <= rough) * power;
  if (pixel.unit === "px") length = Math.max(1, Math.round(length));
  const nanometres = pixel.unit === "Å" && length >= 10;
  return { pixels: length / pixel.size, label: `${number(nanometres ? length / 10 : length)} ${nanometres ? "nm" : pixel.unit}` };
}

// Write a number with four digits, and without an exponent where that is short.
function number(v, digits = 4) {
  if (v === null || v === undefined || Number.isNaN(v)) return "NaN";
  return String(Number(v.toPrecision(digits)));
}

// Write text that is legible on any image.
function label(context, text, x, y, align = "left") {
  context.font = "600 13px system-ui, 'DejaVu Sans', sans-serif";
  context.textAlign = align;
  context.lineWidth = 4;
  context.lineJoin = "round";
  context.strokeStyle = "rgba(0,0,0,.85)";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
}

// Draw a path twice, dark and wide below bright, so that it is seen on any image.
function stroke(context, colour, path, width = 2) {
  for (const [style, extra] of [["rgba(0,0,0,.7)", 2], [colour, 0]]) {
    context.beginPath();
    path(context);
    context.strokeStyle = style;
    context.lineWidth = width + extra;
    context.stroke();
  }
}

// Say which axis goes where, and how long things are.
function drawAxes(context, place, names) {
  label(context, `↓ ${names[0]}   → ${names[1]}`, place.left + 10, place.top + 20);
}

function drawScaleBar(context, place, pixel) {
  const bar = scaleBar(place.columns, pixel), length = bar.pixels * place.zoom;
  const x = place.left + 12, y = place.top + place.rows * place.zoom - 14;
  context.fillStyle = "rgba(0,0,0,.75)";
  context.fillRect(x - 2, y - 2, length + 4, 8);
  context.fillStyle = "#fff";
  context.fillRect(x, y, length, 4);
  label(context, bar.label, x, y - 7);
}

// Return how many values of an image lie in each of some bins between two limits. Bins are equal in the scale of the brightness.
function countBins(sorted, scale, low, high) {
  const counts = new Float64Array(HISTOGRAM_BINS), { of } = SCALES[scale], start = of(low), width = (of(high) - start) / HISTOGRAM_BINS || 1;
  for (const v of sorted) {
    const bin = Math.floor((of(v) - start) / width);
    if (bin >= 0) counts[Math.min(HISTOGRAM_BINS - 1, bin)] += 1;
  }
  return counts;
}

// Draw a histogram with limits, given as parts of its width. Bars are square roots of counts, so that rare values are seen.
function drawHistogram(canvas, counts, parts) {
  const { context, width, height } = sized(canvas), most = Math.sqrt(Math.max(1, ...counts));
  context.fillStyle = "#6b7f92";
  counts.forEach((count, i) => {
    const tall = (Math.sqrt(count) / most) * (height - 4);
    context.fillRect((i * width) / counts.length, height - tall, width / counts.length - 0.5, tall);
  });
  for (const part of parts) {
    const x = Math.max(1, Math.min(width - 1, part * width));
    context.fillStyle = "#1f5f99";
    context.fillRect(x - 1, 0, 2, height);
    context.fillRect(x - 4, 0, 8, 8);
  }
}

// Return values of an image along a line, by bilinear interpolation, one for each pixel of its length.
function along(image, [x0, y0], [x1, y1]) {
  const steps = Math.max(1, Math.round(Math.hypot(x1 - x0, y1 - y0))), found = new Float64Array(steps + 1);
  for (let i = 0; i <= steps; i++) {
    const x = x0 + ((x1 - x0) * i) / steps, y = y0 + ((y1 - y0) * i) / steps;
    const r = Math.max(0, Math.min(image.rows - 2, Math.floor(x))), c = Math.max(0, Math.min(image.columns - 2, Math.floor(y)));
    const at = (k, l) => image.values[Math.min(r + k, image.rows - 1) * image.columns + Math.min(c + l, image.columns - 1)];
    const t = x - r, u = y - c; // a neighbour of weight zero must not spoil a value, if it is NaN
    let sum = 0;
    for (const [k, l, w] of [[0, 0, (1 - t) * (1 - u)], [1, 0, t * (1 - u)], [0, 1, (1 - t) * u], [1, 1, t * u]]) if (w) sum += w * at(k, l);
    found[i] = sum;
  }
  return found;
}

function drawProfile(canvas, values, length, unit, units) {
  const { context, width, height } = sized(canvas), finite = [...values].filter(Number.isFinite);
  const low = Math.min(...finite), high = Math.max(...finite), span = high - low || 1;
  const left = 64, bottom = height - 22, top = 10, right = width - 12;
  context.strokeStyle = "#c3ccd5";
  context.strokeRect(left + 0.5, top + 0.5, right - left, bottom - top);
  context.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  context.fillStyle = "#44505c";
  context.textAlign = "right";
  context.fillText(number(high, 3), left - 5, top + 10);
  context.fillText(number(low, 3), left - 5, bottom);
  context.fillText(`${number(length, 3)} ${unit}`, right, height - 6);
  context.fillText(units, left - 5, (top + bottom) / 2 + 4);
  context.textAlign = "left";
  context.fillText("0", left, height - 6);
  context.beginPath();
  let pen = false;
  values.forEach((v, i) => {
    const x = left + ((right - left) * i) / (values.length - 1), y = bottom - 3 - ((v - low) / span) * (bottom - top - 6);
    if (Number.isFinite(v)) pen ? context.lineTo(x, y) : context.moveTo(x, y);
    pen = Number.isFinite(v);
  });
  context.strokeStyle = "#1f5f99";
  context.lineWidth = 1.8;
  context.stroke();
}

// Give a canvas the pixels of the screen, clear it, and return its context in pixels of the style sheet.
function sized(canvas) {
  const ratio = globalThis.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}
