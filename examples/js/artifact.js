// Drives an artifact of fam-onnx with ONNX Runtime for JavaScript: onnxruntime-node or onnxruntime-web, given as `ort`.

import { withWeights, withoutDefaults } from "./protobuf.js";

const TYPES = { F32: ["float32", Float32Array], I64: ["int64", BigInt64Array], I32: ["int32", Int32Array] };

/** Tensors by name. */
export function readSafetensors(ort, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = 8 + Number(view.getBigUint64(0, true));
  const { __metadata__, ...header } = JSON.parse(new TextDecoder().decode(bytes.subarray(8, start)));
  const tensors = {};
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(header)) {
    if (!TYPES[dtype]) throw new Error(`${name} is ${dtype}; this example reads ${Object.keys(TYPES).join(", ")}`);
    const [type, Elements] = TYPES[dtype];
    // A copy: the data need not be aligned in the file.
    tensors[name] = new ort.Tensor(type, new Elements(new Uint8Array(bytes.subarray(start + from, start + to)).buffer), shape);
  }
  return tensors;
}

/** The elements of an IDX file (MNIST's format) of bytes, and its dimensions. */
export function readIdx(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const dims = Array.from({ length: bytes[3] }, (_, axis) => view.getUint32(4 + 4 * axis));
  return { dims, data: bytes.subarray(4 + 4 * dims.length) };
}

/** Digits as the model wants them: pixels from 0 to 1, labels as int64. */
export class Digits {
  constructor(ort, images, labels) {
    this.ort = ort;
    this.images = readIdx(images);
    this.labels = readIdx(labels).data;
    this.count = this.labels.length;
  }

  /** The named samples: {x, labels}. */
  batch(samples) {
    const size = 28 * 28;
    const x = new Float32Array(samples.length * size);
    samples.forEach((sample, row) => {
      for (let i = 0; i < size; i++) x[row * size + i] = this.images.data[sample * size + i] / 255;
    });
    const labels = BigInt64Array.from(samples, (sample) => BigInt(this.labels[sample]));
    return {
      x: new this.ort.Tensor("float32", x, [samples.length, 1, 28, 28]),
      labels: new this.ort.Tensor("int64", labels, [samples.length]),
    };
  }
}

/** What a probe or a dropout's mask takes this step: random signs, or ones with their probability. */
function draw(ort, probe, batch) {
  const dims = probe.shape.map((size) => (size === "batch" ? batch : size));
  const sign = () => (Math.random() < 0.5 ? -1 : 1);
  const one = () => (Math.random() < probe.probability ? 1 : 0);
  const values = Array.from({ length: dims.reduce((a, b) => a * b, 1) }, probe.distribution === "rademacher" ? sign : one);
  return new ort.Tensor("float32", Float32Array.from(values), dims);
}

const argmax = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0);

export class Artifact {
  /** `read(name)` gives the bytes of a file of the artifact; `options` go to every session. */
  static async open(ort, read, options = {}) {
    const artifact = new Artifact();
    const manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    const lambdas = manifest.layers.map((layer) => layer.lambda_input).filter(Boolean);
    const session = async (bytes) => ort.InferenceSession.create(withoutDefaults(bytes, lambdas), options);
    artifact.model = await read("model.onnx");
    Object.assign(artifact, { ort, manifest, lambdas });
    artifact.initial = readSafetensors(ort, await read("parameters.safetensors"));
    artifact.train = await session(await read(manifest.graphs.train.path));
    artifact.inference = await session(artifact.model);
    artifact.reset();
    return artifact;
  }

  /** Back to the initial parameters and state. */
  reset() {
    this.tensors = this.initial;
  }

  /** λ of the layers, as the artifact was made. */
  get lambda() {
    return this.manifest.layers[0].lambda;
  }

  /** Every input that is drawn at random. */
  get probes() {
    return [...this.manifest.layers.flatMap((layer) => layer.probes), ...(this.manifest.masks ?? [])];
  }

  scalar(value) {
    return new this.ort.Tensor("float32", Float32Array.of(value), []);
  }

  /** One step on {x, labels}; `lambda` is that of every layer. Gives the loss and κ of each layer. */
  async step({ x, labels }, rate, lambda = this.lambda) {
    const graph = this.manifest.graphs.train;
    const feeds = { ...this.tensors, [this.manifest.inputs[0]]: x, [this.manifest.labels]: labels };
    feeds[graph.learning_rate] = this.scalar(rate);
    for (const name of this.lambdas) feeds[name] = this.scalar(lambda);
    for (const probe of this.probes) feeds[probe.name] = draw(this.ort, probe, x.dims[0]);
    const results = await this.train.run(only(feeds, this.train.inputNames));
    const updated = Object.entries(graph.updates).map(([name, next]) => [name, results[next]]);
    this.tensors = { ...this.tensors, ...Object.fromEntries(updated) };
    return { loss: results[graph.loss].data[0], kappa: graph.kappa.map((name) => results[name].data[0]) };
  }

  /** What the model says of `x`, with the parameters as they are now: a tensor of logits. */
  async predict(x) {
    const feeds = { ...this.tensors, [this.manifest.inputs[0]]: x };
    const results = await this.inference.run(only(feeds, this.inference.inputNames));
    return results[this.inference.outputNames[0]];
  }

  /** The share of the samples whose largest logit is their label's. */
  async accuracy(digits, samples) {
    const { x, labels } = digits.batch(samples);
    const { data, dims } = await this.predict(x);
    const rows = samples.map((_, row) => argmax(data.subarray(row * dims[1], (row + 1) * dims[1])));
    return rows.filter((guess, row) => BigInt(guess) === labels.data[row]).length / samples.length;
  }

  /** The model with its parameters as they are now: the bytes of an .onnx file. */
  export() {
    const weights = this.manifest.parameters.map(({ name }) => [name, this.tensors[name]]);
    return withWeights(this.model, Object.fromEntries(weights));
  }
}

function only(feeds, names) {
  return Object.fromEntries(names.map((name) => [name, feeds[name]]));
}
