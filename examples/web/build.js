// Puts the page together in site/, which any web server can serve: node build.js ARTIFACT DIGITS
// ARTIFACT is LeNet's, of `fam-onnx inject` or the demo; DIGITS is a directory with MNIST's IDX files.

import { cp, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const [artifact, digits] = process.argv.slice(2);
if (!digits) throw new Error("usage: node build.js ARTIFACT DIGITS");

const site = join(here, "site");
const runtime = join(here, "node_modules/onnxruntime-web/dist");
await rm(site, { recursive: true, force: true });
await mkdir(join(site, "ort"), { recursive: true });
for (const name of ["index.html", "style.css", "app.js", "chart.js", "drawing.js"]) await cp(join(here, name), join(site, name));
for (const name of ["artifact.js", "protobuf.js"]) await cp(join(here, "../js", name), join(site, "js", name));
for (const name of ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"])
  await cp(join(runtime, name), join(site, "ort", name));
await cp(artifact, join(site, "lenet.fam"), { recursive: true });
for (const part of ["train", "t10k"])
  for (const kind of ["images-idx3", "labels-idx1"]) await cp(join(digits, `${part}-${kind}-ubyte.gz`), join(site, "mnist", `${part}-${kind}-ubyte.gz`));
console.log(`the page is in ${site}; node serve.js shows it`);
