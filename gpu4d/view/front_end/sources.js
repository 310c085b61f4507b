// Where the numbers of a page come from: a server on this computer, a kernel of a notebook, or the page itself.
// A source has `about` and `ask(request)`, which resolves to {said, values} or to null if a newer request has come.

const CLIENT = Math.random().toString(36).slice(2); // by which a server tells the requests of several pages apart

// Read an answer: the length of the text, the text, the values.
function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const said = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  return { said, values: new Float64Array(buffer, 4 + length) };
}

// Ask the server that sent this page.
async function serverSource() {
  const about = await (await fetch("/about")).json();
  const ask = async (request) => {
    const body = JSON.stringify({ client: CLIENT, ...request });
    const answer = await fetch("/ask", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (answer.status === 204) return null;
    if (!answer.ok) throw new Error(await answer.text());
    return unpack(await answer.arrayBuffer());
  };
  return { about, ask };
}

// Ask the kernel of a notebook, by messages of a widget.
function widgetSource(model) {
  const waiting = new Map();
  let last = 0;
  model.on("msg:custom", (said, buffers) => {
    const { resolve, reject } = waiting.get(said.number) ?? {};
    waiting.delete(said.number);
    if (!resolve) return;
    if (said.error) reject(new Error(said.error));
    else if (said.outdated) resolve(null);
    else {
      const bytes = buffers[0].buffer ? buffers[0] : new DataView(buffers[0]);
      resolve({ said, values: new Float64Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength)) });
    }
  });
  const ask = (request) =>
    new Promise((resolve, reject) => {
      last += 1;
      waiting.set(last, { resolve, reject });
      model.send({ client: CLIENT, number: last, ...request });
    });
  return { about: JSON.parse(model.get("about")), ask };
}

// Unpack bytes that were deflated and written in base64.
async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

// Compute everything from the cube inside the page: one image for each detector pixel, one after the other.
async function pageSource(data) {
  const { about } = data, [rx, ry] = about.scan, [qx, qy] = about.detector, positions = rx * ry;
  const kinds = { uint8: Uint8Array, uint16: Uint16Array };
  const cube = new kinds[data.kind](await inflated(data.cube));
  const valid = data.valid ? new Uint8Array(await inflated(data.valid)) : new Uint8Array(qx * qy).fill(1);
  const origins = data.origins ? new Float64Array(await inflated(data.origins)) : null;
  const lattices = data.lattices ? new Float32Array(await inflated(data.lattices)) : null;
  const maps = {};
  for (const { name, values } of data.maps) maps[name] = new Float32Array(await inflated(values));
  const summary = { mean: new Float64Array(qx * qy), max: new Float64Array(qx * qy) };
  const all = { inside: valid, values: new Float64Array(positions) };
  for (let q = 0; q < qx * qy; q++) {
    let sum = 0, most = 0;
    const from = q * positions;
    for (let p = 0; p < positions; p++) {
      const v = cube[from + p];
      sum += v;
      if (v > most) most = v;
      if (valid[q]) all.values[p] += v;
    }
    summary.mean[q] = valid[q] ? (sum / positions) * data.step + data.offset : NaN;
    summary.max[q] = valid[q] ? most * data.step + data.offset : NaN;
  }
  const known = [{ inside: new Uint8Array(qx * qy), values: new Float64Array(positions) }, all];

  // Add and take away pixels, from the known sum that needs the fewest of them.
  function sumInside(inside) {
    const different = ({ inside: other }) => other.reduce((count, v, q) => count + (v !== inside[q]), 0);
    const start = known.reduce((best, one) => (different(one) < different(best) ? one : best));
    const values = start.values.slice();
    for (let q = 0; q < inside.length; q++) {
      const from = q * positions;
      if (inside[q] && !start.inside[q]) for (let p = 0; p < positions; p++) values[p] += cube[from + p];
      else if (!inside[q] && start.inside[q]) for (let p = 0; p < positions; p++) values[p] -= cube[from + p];
    }
    known[2] = { inside, values };
    return values;
  }

  // Sum what a detector takes that moves with the origin of each position. Pixels that it takes everywhere, or nowhere, are not compared.
  function sumFollowing(detector) {
    const m = stretch(detector, about), [ox, oy] = about.origin, counts = new Float64Array(positions);
    let reach = 0;
    for (let p = 0; p < positions; p++) {
      const u = origins[2 * p] - ox, v = origins[2 * p + 1] - oy;
      for (const length of [Math.hypot(u, v), Math.hypot(m[0][0] * u + m[0][1] * v, m[1][0] * u + m[1][1] * v)]) if (length > reach) reach = length;
    }
    reach += 1e-6;
    const always = maskOf(resized(detector, -reach), about).map((v, q) => v & valid[q]), ever = maskOf(resized(detector, reach), about);
    const values = sumInside(always).slice(), takes = takesOf(detector, m);
    counts.fill(always.reduce((a, b) => a + b, 0));
    for (let q = 0; q < qx * qy; q++) {
      if (!ever[q] || always[q] || !valid[q]) continue;
      const x = Math.floor(q / qy), y = q % qy, from = q * positions;
      for (let p = 0; p < positions; p++)
        if (takes(x - (detector.center[0] + (origins[2 * p] - ox)), y - (detector.center[1] + (origins[2 * p + 1] - oy)))) {
          values[p] += cube[from + p];
          counts[p] += 1;
        }
    }
    return values.map((v, p) => (Number.isFinite(origins[2 * p]) ? v * data.step + data.offset * counts[p] : NaN));
  }

  const meanOf = ([r0, r1], [c0, c1]) => {
    const found = new Float64Array(qx * qy), count = (r1 - r0) * (c1 - c0);
    for (let q = 0; q < qx * qy; q++) {
      let sum = 0;
      for (let r = r0; r < r1; r++) for (let c = c0; c < c1; c++) sum += cube[q * positions + r * ry + c];
      found[q] = valid[q] ? (sum / count) * data.step + data.offset : NaN;
    }
    return found;
  };

  const originAt = (p) => (!origins ? about.origin : Number.isFinite(origins[2 * p]) ? [origins[2 * p], origins[2 * p + 1]] : undefined);
  const latticeAt = (p) => {
    const found = lattices && [...lattices.slice(4 * p, 4 * p + 4)];
    return found ? (found.every(Number.isFinite) ? [found.slice(0, 2), found.slice(2)] : null) : undefined;
  };
  const ways = {
    image: ({ detector, follow }) => {
      const inside = maskOf(detector, about).map((v, q) => v & valid[q]), pixels = inside.reduce((a, b) => a + b, 0);
      const values = follow && origins ? sumFollowing(detector) : sumInside(inside).map((v) => v * data.step + data.offset * pixels);
      return { said: { exact: true, note: data.note, pixels, units: "counts" }, values };
    },
    map: ({ name }) => ({ said: { exact: true, name, units: about.maps.find((m) => m.name === name).units }, values: maps[name] }),
    summary: ({ name }) => ({ said: { name }, values: summary[name] }),
    pattern: ({ position: [r, c] }) => ({
      said: { position: [r, c], origin: originAt(r * ry + c), disks: data.disks?.[r * ry + c], lattice: latticeAt(r * ry + c) },
      values: meanOf([r, r + 1], [c, c + 1]),
    }),
    region: ({ rows, columns }) => ({ said: { rows, columns }, values: meanOf(rows, columns) }),
  };
  return { about, ask: async (request) => ways[request.ask](request) };
}

// Return the matrix that makes round what the detector distorts, for shapes that are stretched with it.
const stretch = (detector, about) => (detector.shape !== "rectangle" && about.ellipse ? about.ellipse : [[1, 0], [0, 1]]);

// Return whether a pixel at some distance from the centre is inside a detector, with the same inequalities as gpu4d.detectors.
function takesOf({ shape, outer, inner, height, width }, m) {
  if (shape === "rectangle") return (u, v) => Math.abs(u) < height / 2 && Math.abs(v) < width / 2;
  return (u, v) => {
    const x = m[0][0] * u + m[0][1] * v, y = m[1][0] * u + m[1][1] * v, r2 = x * x + y * y;
    return r2 < outer * outer && (shape === "disk" || r2 > inner * inner);
  };
}

// Return a detector that is larger by some pixels on all sides, or smaller. Sizes below zero take nothing.
function resized(detector, by) {
  const { shape, outer, inner, height, width } = detector;
  if (shape === "rectangle") return { ...detector, height: height + 2 * by, width: width + 2 * by };
  const all = shape === "disk" || inner - by < 0 ? { shape: "disk" } : { inner: inner - by };
  return { ...detector, ...all, outer: Math.max(0, outer + by) };
}

// Return the pixels inside a detector as bytes.
function maskOf(detector, about) {
  const [qx, qy] = about.detector, mask = new Uint8Array(qx * qy), [cx, cy] = detector.center, takes = takesOf(detector, stretch(detector, about));
  for (let i = 0; i < qx; i++) for (let j = 0; j < qy; j++) mask[i * qy + j] = takes(i - cx, j - cy);
  return mask;
}

// Return a function that asks for the newest request alone: while one is under way, only the last of the others waits.
// A request that waits for long (`slow`) does not hold up those after it.
function newestOf(ask, show, fail) {
  let running = null, next = null, count = 0, shown = 0;
  async function run(request) {
    const own = (running = { number: ++count, slow: request.slow }), start = performance.now();
    try {
      const answer = await ask(request);
      if (answer && own.number > shown) {
        shown = own.number;
        show(answer, request, start);
      }
    } catch (error) {
      fail(error);
    }
    if (running === own) {
      running = null;
      if (next) [request, next] = [next, null], run(request);
    }
  }
  return (request) => (running && !running.slow ? (next = request) : run(request));
}
