// Where the numbers of a page come from: a server on this computer, a kernel of a notebook, or the page itself.
// A source has `about` and `ask(request)`, which resolves to {said, values} or to null if a newer request has come.

const CLIENT = Math.random().toString(36).slice(2); // by which a server tells the requests of several pages apart

const RUN = 16; // positions along a row of the scan that are compared with a detector at once: the beam hardly moves from one to the next
const MARGIN = 1e-6; // px, far above the rounding of places: nearer to the edge of a detector, each position is compared

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

  const beams = origins && runsOf(origins, about);

  // Sum what a detector takes that moves with the origin of each position: the sum of the detector at rest, corrected where the moved one
  // takes a pixel that the other does not, or the other way. Where that is so for a whole run of positions, they are not compared.
  function sumFollowing(detector, inside) {
    const m = stretch(detector, about), [x0, y0] = detector.center, takes = takesOf(detector, m), depth = depthOf(detector, m);
    const { u, v, starts, du, dv, reaches, reach } = beams, values = sumInside(inside).slice();
    const counts = data.offset ? new Float64Array(positions).fill(inside.reduce((a, b) => a + b, 0)) : null;
    for (let q = 0; q < qx * qy; q++) {
      const x = Math.floor(q / qy), y = q % qy, from = q * positions, own = inside[q];
      if (!valid[q] || Math.abs(depth(x - x0, y - y0)) > reach) continue;
      for (let k = 0; k < reaches.length; k++) {
        const deep = depth(x - x0 - du[k], y - y0 - dv[k]), whole = deep > reaches[k], none = deep < -reaches[k];
        if (own ? whole : none) continue;
        const sign = own ? -1 : 1;
        for (let p = starts[k], end = starts[k + 1]; p < end; p++)
          if (whole || none || takes(x - (x0 + u[p]), y - (y0 + v[p])) != own) {
            values[p] += sign * cube[from + p];
            if (counts) counts[p] += sign;
          }
      }
    }
    for (let p = 0; p < positions; p++) values[p] = Number.isFinite(u[p]) ? values[p] * data.step + (counts ? data.offset * counts[p] : 0) : NaN;
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

  const originAt = (p) => (!origins ? about.origin : Number.isFinite(origins[2 * p]) ? [origins[2 * p], origins[2 * p + 1]] : undefined);
  const latticeAt = (p) => {
    const found = lattices && [...lattices.slice(4 * p, 4 * p + 4)];
    return found ? (found.every(Number.isFinite) ? [found.slice(0, 2), found.slice(2)] : null) : undefined;
  };
  const ways = {
    image: ({ detector, follow }) => {
      const inside = maskOf(detector, about).map((v, q) => v & valid[q]), pixels = inside.reduce((a, b) => a + b, 0);
      const values = follow && origins ? sumFollowing(detector, inside) : sumInside(inside).map((v) => v * data.step + data.offset * pixels);
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

// Return how far inside a detector a pixel lies, in pixels; below zero it is outside.
function depthOf({ shape, outer, inner, height, width }, m) {
  if (shape === "rectangle") return (u, v) => Math.min(height / 2 - Math.abs(u), width / 2 - Math.abs(v));
  return (u, v) => {
    const x = m[0][0] * u + m[0][1] * v, y = m[1][0] * u + m[1][1] * v, r = Math.sqrt(x * x + y * y);
    return shape === "disk" ? outer - r : Math.min(outer - r, r - inner);
  };
}

// Return how far the beam of every position is from its mean place, u and v, and runs of neighbours along a row of the scan: where each
// starts, its middle, and the largest distance from that. A run with a place that is not known has no limit.
function runsOf(origins, about) {
  const [rx, ry] = about.scan, [ox, oy] = about.origin, u = new Float64Array(rx * ry), v = new Float64Array(rx * ry), m = about.ellipse ?? [[1, 0], [0, 1]];
  for (let p = 0; p < rx * ry; p++) [u[p], v[p]] = [origins[2 * p] - ox, origins[2 * p + 1] - oy];
  const length = (a, b) => Math.max(Math.hypot(a, b), Math.hypot(m[0][0] * a + m[0][1] * b, m[1][0] * a + m[1][1] * b));
  const starts = [], du = [], dv = [], reaches = [];
  let reach = 0;
  for (let r = 0; r < rx; r++)
    for (let start = r * ry; start < (r + 1) * ry; start += RUN) {
      const end = Math.min(start + RUN, (r + 1) * ry), middle = [u, v].map((w) => (w[start] + w[end - 1]) / 2);
      let own = 0;
      for (let p = start; p < end; p++) {
        own = Math.max(own, length(u[p] - middle[0], v[p] - middle[1]) + MARGIN); // NaN, once it is one
        reach = Math.max(reach, length(u[p], v[p]) + MARGIN || 0);
      }
      const known = Number.isFinite(own);
      starts.push(start), du.push(known ? middle[0] : 0), dv.push(known ? middle[1] : 0), reaches.push(known ? own : Infinity);
    }
  starts.push(rx * ry);
  return { u, v, starts, du: Float64Array.from(du), dv: Float64Array.from(dv), reaches: Float64Array.from(reaches), reach };
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
