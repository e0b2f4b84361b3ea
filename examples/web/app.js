// The page: two networks from the same initial weights, one trained with FAM and one without, on the same batches.

import * as ort from "./ort/ort.wasm.min.mjs";
import { Artifact, Digits } from "./js/artifact.js";
import { Chart } from "./chart.js";
import { Drawing } from "./drawing.js";

const BATCH = 64;
const TEST_DIGITS = 1000;
const EVALUATE_EVERY = 20;
const MODES = ["fam", "plain"];

const byId = (id) => document.getElementById(id);
const options = new URLSearchParams(location.search);

ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
// More threads would need a page that is isolated from other origins by its headers.
ort.env.wasm.numThreads = 1;

async function bytes(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

async function unzipped(path) {
  const zipped = new Blob([await bytes(path)]).stream();
  return new Uint8Array(await new Response(zipped.pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

async function digits(name) {
  return new Digits(ort, await unzipped(`mnist/${name}-images-idx3-ubyte.gz`), await unzipped(`mnist/${name}-labels-idx1-ubyte.gz`));
}

/** Random numbers from 0 to 1, the same in every visit. */
function random(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** The samples of each step: those of the file that the address names, or epochs in random order. */
async function* batches(samples) {
  if (options.has("batches")) yield* await (await fetch(options.get("batches"))).json();
  const draw = random(1);
  for (;;) {
    const order = Array.from({ length: samples }, (_, i) => i);
    for (let last = samples - 1; last > 0; last--) {
      const other = Math.floor(draw() * (last + 1));
      [order[last], order[other]] = [order[other], order[last]];
    }
    for (let at = 0; at + BATCH <= samples; at += BATCH) yield order.slice(at, at + BATCH);
  }
}

/** A network in training: what it has learnt, and the curves. */
class Network {
  constructor(page) {
    this.tensors = page.artifact.initial;
    this.batches = batches(page.training.count);
    this.step = 0;
    this.curves = { loss: [], kappa: [], accuracy: [] };
  }
}

class Page {
  async open() {
    [this.training, this.test] = [await digits("train"), await digits("t10k")];
    this.artifact = await Artifact.open(ort, (name) => bytes(`lenet.fam/${name}`), { executionProviders: ["wasm"] });
    const layer = this.artifact.manifest.layers[0].name;
    for (const name of document.querySelectorAll(".layer")) name.textContent = layer;
    this.charts = {
      loss: new Chart(byId("loss"), { label: "Training loss", format: (v) => v.toFixed(2) }),
      kappa: new Chart(byId("kappa"), { label: `κ of ${layer}`, format: (v) => (v < 10 ? v.toFixed(1) : v.toFixed(0)) }),
      accuracy: new Chart(byId("accuracy"), {
        label: "Accuracy on test digits", format: (v) => `${Math.round(1000 * v) / 10} %`, range: [0, 1],
      }),
    };
    this.drawing = new Drawing(byId("canvas"), () => this.enqueue(() => this.answer()));
    this.running = false;
    this.work = Promise.resolve();
    this.reset();
    this.listen();
    for (const id of ["train", "reset", "download", "sample"]) byId(id).disabled = false;
  }

  listen() {
    byId("controls").addEventListener("submit", (event) => {
      event.preventDefault();
      this.running ? (this.running = false) : this.enqueue(() => this.train());
    });
    byId("reset").addEventListener("click", () => {
      this.running = false;
      this.enqueue(() => this.reset());
    });
    byId("download").addEventListener("click", () => this.download());
    byId("lambda").addEventListener("input", () => this.showLambda());
    byId("steps").addEventListener("input", () => this.draw());
    for (const radio of document.querySelectorAll("[name=mode]")) radio.addEventListener("change", () => (this.running = false));
    byId("clear").addEventListener("click", () => {
      this.drawing.clear();
      this.enqueue(() => this.answer());
    });
    byId("sample").addEventListener("click", () => {
      const { x } = this.test.batch([TEST_DIGITS + Math.floor(Math.random() * (this.test.count - TEST_DIGITS))]);
      this.drawing.show(x.data);
      this.enqueue(() => this.answer());
    });
  }

  /** One thing at a time: a session runs one request after the other. */
  enqueue(task) {
    this.work = this.work.then(task).catch(fail);
    return this.work;
  }

  get mode() {
    return document.querySelector("[name=mode]:checked").value;
  }

  get lambda() {
    return 10 ** Number(byId("lambda").value);
  }

  get steps() {
    return Number(byId("steps").value) || 1;
  }

  reset() {
    this.networks = Object.fromEntries(MODES.map((mode) => [mode, new Network(this)]));
    this.showLambda();
    this.draw();
    say("Ready. The two networks start from the same weights and see the same batches.");
    return this.answer();
  }

  async train() {
    const mode = this.mode;
    const network = this.networks[mode];
    this.running = true;
    byId("train").textContent = "Pause";
    const started = performance.now();
    const first = network.step;
    while (this.running && network.step < this.steps) {
      await this.one(mode, network);
      const pace = (performance.now() - started) / (network.step - first);
      say(`${mode === "fam" ? "FAM" : "plain"}: step ${network.step} of ${this.steps}, ${pace.toFixed(0)} ms a step`);
      this.draw();
      // Lets the browser paint and hear clicks.
      await new Promise((resolve) => setTimeout(resolve));
    }
    this.running = false;
    byId("train").textContent = "Train";
    await this.answer();
  }

  async one(mode, network) {
    const { value: samples } = await network.batches.next();
    this.artifact.tensors = network.tensors;
    const lambda = mode === "fam" ? this.lambda : 0;
    const { loss, kappa } = await this.artifact.step(this.training.batch(samples), Number(byId("rate").value), lambda);
    network.tensors = this.artifact.tensors;
    network.step += 1;
    if (!Number.isFinite(loss)) {
      this.running = false;
      throw new Error(`step ${network.step}: the loss is ${loss}; start over with a smaller learning rate or λ`);
    }
    network.curves.loss.push([network.step, loss]);
    network.curves.kappa.push([network.step, kappa[0]]);
    if (network.step % EVALUATE_EVERY === 0 || network.step === 1 || network.step === this.steps)
      network.curves.accuracy.push([network.step, await this.artifact.accuracy(this.test, first(TEST_DIGITS))]);
  }

  draw() {
    for (const [what, chart] of Object.entries(this.charts)) {
      const curves = MODES.map((mode) => [mode, this.networks[mode].curves[what]]);
      chart.draw(Object.fromEntries(curves), Math.max(this.steps, ...MODES.map((mode) => this.networks[mode].step)));
    }
    Object.assign(byId("progress"), { max: this.steps, value: this.networks[this.mode].step });
  }

  showLambda() {
    byId("lambda-shown").textContent = this.lambda.toPrecision(2);
  }

  /** What both networks say of the drawing. */
  async answer() {
    for (const mode of MODES) {
      const probabilities = this.drawing.empty ? [] : await this.probabilities(mode);
      const best = probabilities.indexOf(Math.max(...probabilities));
      byId(`guess-${mode}`).textContent = probabilities.length
        ? `says ${best}, ${Math.round(100 * probabilities[best])} %, after ${this.networks[mode].step} steps`
        : "";
      showBars(byId(`bars-${mode}`), probabilities);
    }
  }

  async probabilities(mode) {
    this.artifact.tensors = this.networks[mode].tensors;
    const { data } = await this.artifact.predict(new ort.Tensor("float32", this.drawing.pixels(), [1, 1, 28, 28]));
    const weights = [...data].map((logit) => Math.exp(logit - Math.max(...data)));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  }

  download() {
    this.artifact.tensors = this.networks[this.mode].tensors;
    const file = new Blob([this.artifact.export()], { type: "application/octet-stream" });
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: `lenet-${this.mode}.onnx` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}

const first = (count) => Array.from({ length: count }, (_, i) => i);

function showBars(list, probabilities) {
  const bar = (digit) => {
    const item = document.createElement("li");
    const track = Object.assign(document.createElement("span"), { className: "track" });
    const filled = Object.assign(document.createElement("span"), { className: "bar" });
    filled.style.height = `${100 * (probabilities[digit] ?? 0)}%`;
    track.append(filled);
    item.append(track, String(digit));
    return item;
  };
  list.replaceChildren(...first(10).map(bar));
}

function say(text) {
  Object.assign(byId("status"), { textContent: text, className: "" });
}

function fail(error) {
  Object.assign(byId("status"), { textContent: String(error.message ?? error), className: "fault" });
  console.error(error);
}

const page = new Page();
page.open().catch(fail);
// For the script that drives the page in a test.
globalThis.page = page;
