// Trains an artifact on the digits of the demo and writes the trained model:
//   fam-onnx demo
//   npm install
//   node train.js ../../fam-onnx-demo/lenet.fam ../../fam-onnx-demo/mnist --rate 0.02 --steps 300 --model trained.onnx

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { gunzipSync } from "node:zlib";
import ort from "onnxruntime-node";
import { Artifact, Digits } from "../js/artifact.js";

const { positionals, values } = parseArgs({
  allowPositionals: true,
  options: {
    steps: { type: "string", default: "300" },
    rate: { type: "string", default: "0.02" },
    // The samples of each step, as JSON; else they are drawn.
    batches: { type: "string" },
    // Where loss and κ of each step are written, as JSON.
    record: { type: "string" },
    model: { type: "string" },
  },
});
const [directory, mnist] = positionals;
if (!mnist) throw new Error("usage: node train.js ARTIFACT DIGITS [--steps N] [--rate X] [--model FILE]");

const idx = async (name) => gunzipSync(await readFile(join(mnist, `${name}-ubyte.gz`)));
const digits = new Digits(ort, await idx("train-images-idx3"), await idx("train-labels-idx1"));
const artifact = await Artifact.open(ort, (name) => readFile(join(directory, name)), { logSeverityLevel: 3 });

const draw = () => Array.from({ length: 64 }, () => Math.floor(Math.random() * digits.count));
const drawn = () => Array.from({ length: Number(values.steps) }, draw);
const batches = values.batches ? JSON.parse(await readFile(values.batches)) : drawn();
const record = [];
for (const samples of batches) record.push(await artifact.step(digits.batch(samples), Number(values.rate)));

const last = record.at(-1);
const all = Array.from({ length: digits.count }, (_, sample) => sample);
const accuracy = await artifact.accuracy(digits, all);
console.log(`step ${record.length}: loss ${last.loss.toFixed(4)}, κ ${last.kappa}, accuracy ${accuracy}`);
if (values.record) await writeFile(values.record, JSON.stringify(record));
if (values.model) await writeFile(values.model, artifact.export());
