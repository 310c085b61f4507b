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

  const meanOf = ([r0, r1], [c0, c1]) => {
    const found = new Float64Array(qx * qy), count = (r1 - r0) * (c1 - c0);
    for (let q = 0; q < qx * qy; q++) {
      let sum = 0;
      for (let r = r0; r < r1; r++) for (let c = c0; c < c1; c++) sum += cube[q * positions + r * ry + c];
      found[q] = valid[q] ? (sum / count) * data.step + data.offset : NaN;
    }
    return found;
  };

  const ways = {
    image: ({ detector }) => {
      const inside = maskOf(detector, about).map((v, q) => v & valid[q]);
      const pixels = inside.reduce((a, b) => a + b, 0), values = sumInside(inside).map((v) => v * data.step + data.offset * pixels);
      return { said: { exact: true, note: data.note, pixels, units: "counts" }, values };
    },
    map: ({ name }) => ({ said: { exact: true, name, units: about.maps.find((m) => m.name === name).units }, values: maps[name] }),
    summary: ({ name }) => ({ said: { name }, values: summary[name] }),
    pattern: ({ position: [r, c] }) => ({
      said: { position: [r, c], origin: about.origin, disks: data.disks?.[r * ry + c] },
      values: meanOf([r, r + 1], [c, c + 1]),
    }),
    region: ({ rows, columns }) => ({ said: { rows, columns }, values: meanOf(rows, columns) }),
  };
  return { about, ask: async (request) => ways[request.ask](request) };
}

// Return the pixels inside a detector as bytes, with the same inequalities as gpu4d.detectors.
function maskOf(detector, about) {
  const [qx, qy] = about.detector, mask = new Uint8Array(qx * qy), [cx, cy] = detector.center;
  const m = detector.shape !== "rectangle" && about.ellipse ? about.ellipse : [[1, 0], [0, 1]];
  for (let i = 0; i < qx; i++)
    for (let j = 0; j < qy; j++) {
      const u = i - cx, v = j - cy, x = m[0][0] * u + m[0][1] * v, y = m[1][0] * u + m[1][1] * v, r2 = x * x + y * y;
      mask[i * qy + j] =
        detector.shape === "rectangle"
          ? Math.abs(u) < detector.height / 2 && Math.abs(v) < detector.width / 2
          : r2 < detector.outer ** 2 && (detector.shape === "disk" || r2 > detector.inner ** 2);
    }
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
