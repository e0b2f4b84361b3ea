// Edits ONNX files without a protobuf library: fields that are not touched keep their bytes.
// Field numbers are those of the ONNX specification (onnx.proto).

const MODEL_GRAPH = 7;
const GRAPH_INITIALIZER = 5;
const GRAPH_INPUT = 11;
const TENSOR = { dims: 1, dataType: 2, name: 8, rawData: 9 };
const VALUE_NAME = 1;
const VALUE_DOC_STRING = 3;
/** How `model.onnx` of an artifact marks the inputs that stand for weights. */
const WEIGHT_MARK = "a weight of the model, kept apart";
const FLOAT = 1;

const text = new TextDecoder();
const utf8 = new TextEncoder();

/** The fields of a message: number, wire type, the bytes of the whole field, and those of its content. */
function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = bytes[at++];
      if (byte === undefined) throw new Error("not an ONNX file: it ends within a number");
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const start = at;
    const key = varint();
    const type = key % 8;
    let from = at;
    if (type === 0) varint();
    else if (type === 1) at += 8;
    else if (type === 5) at += 4;
    else if (type === 2) {
      const length = varint();
      from = at;
      at += length;
    } else throw new Error(`not an ONNX file: wire type ${type}`);
    if (at > bytes.length) throw new Error("not an ONNX file: it ends within a field");
    yield { number: Math.floor(key / 8), whole: bytes.subarray(start, at), content: bytes.subarray(from, at) };
  }
}

function string(message, number) {
  for (const field of fields(message)) if (field.number === number) return text.decode(field.content);
  return "";
}

function varint(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value % 128) | 128);
  return Uint8Array.from([...bytes, value]);
}

const number = (field, value) => concat([varint(field * 8), varint(value)]);
const message = (field, content) => concat([varint(field * 8 + 2), varint(content.length), content]);

function concat(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
  return whole;
}

/** The model with its graph's fields replaced by what `edit` makes of them. */
function withGraph(model, edit) {
  return concat([...fields(model)].map((f) => (f.number === MODEL_GRAPH ? message(MODEL_GRAPH, edit(f.content)) : f.whole)));
}

/** A float32 TensorProto. */
function tensor(name, dims, values) {
  const raw = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  return concat([
    ...dims.map((dim) => number(TENSOR.dims, dim)),
    number(TENSOR.dataType, FLOAT),
    message(TENSOR.name, utf8.encode(name)),
    message(TENSOR.rawData, raw),
  ]);
}

/**
 * The model without default values for these inputs. JavaScript's `run` feeds only inputs that have none, so λ, which an
 * artifact gives a default, could not be fed otherwise.
 */
export function withoutDefaults(model, names) {
  const isDefault = (f) => f.number === GRAPH_INITIALIZER && names.includes(string(f.content, TENSOR.name));
  return withGraph(model, (graph) => concat([...fields(graph)].filter((f) => !isDefault(f)).map((f) => f.whole)));
}

/** `model.onnx` of an artifact with its weights: what `fam-onnx export` writes. `weights`: name → {dims, data}, float32. */
export function withWeights(model, weights) {
  const isMarked = (f) => f.number === GRAPH_INPUT && string(f.content, VALUE_DOC_STRING) === WEIGHT_MARK;
  return withGraph(model, (graph) => {
    const missing = [...fields(graph)].filter(isMarked).map((f) => string(f.content, VALUE_NAME)).filter((n) => !weights[n]);
    if (missing.length) throw new Error(`weights are missing: ${missing.join(", ")}`);
    const kept = [...fields(graph)].filter((f) => !isMarked(f)).map((f) => f.whole);
    const filled = Object.entries(weights).map(([name, t]) => message(GRAPH_INITIALIZER, tensor(name, t.dims, t.data)));
    return concat([...kept, ...filled]);
  });
}
