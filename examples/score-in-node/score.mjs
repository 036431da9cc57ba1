// Scores a bundle's golden samples in JavaScript: nothing of Slipway, nothing of Python.
//
//   npm ci && node score.mjs BUNDLE
//
// In: a folder that `slipway bundle` wrote, of an ONNX format. Out: how far each output is from the source model's, and
// exit code 0 when every value is within the contract's tolerances, 1 when not, 2 when it cannot be asked.

import { readFile } from "node:fs/promises";
import { join, posix } from "node:path";
import * as ort from "onnxruntime-web";

/** Open Inference Protocol type → how its values lie in memory; strings are JSON. */
const ARRAYS = {
  BOOL: Uint8Array,
  UINT8: Uint8Array,
  UINT16: Uint16Array,
  UINT32: Uint32Array,
  UINT64: BigUint64Array,
  INT8: Int8Array,
  INT16: Int16Array,
  INT32: Int32Array,
  INT64: BigInt64Array,
  FP16: Uint16Array, // bits: not every Node has a Float16Array
  FP32: Float32Array,
  FP64: Float64Array,
};

process.on("uncaughtException", (error) => {
  console.error(`${process.argv[2]} cannot be scored: ${error.message}`);
  process.exit(2);
});
const bundle = process.argv[2];
if (!bundle) {
  console.error("usage: node score.mjs BUNDLE");
  process.exit(2);
}
const contract = JSON.parse(await readFile(join(bundle, "contract.json")));
const golden = JSON.parse(await readFile(join(bundle, "golden/index.json")));
if (contract.runtime !== "onnx") {
  console.error(`${contract.name} is a bundle of ${contract.format}; this runs ONNX files: bundle it with --format onnx`);
  process.exit(2);
}

ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(await readFile(join(bundle, contract.model)), {
  externalData: await Promise.all(
    contract.files
      .filter((file) => file.path.startsWith("model/") && file.path !== contract.model)
      .map(async (file) => ({
        path: posix.relative(posix.dirname(contract.model), file.path), // weights that lie beside the graph
        data: await readFile(join(bundle, file.path)),
      })),
  ),
});

const inputs = await Promise.all(golden.prepared.map(read));
const outputs = await Promise.all(golden.outputs.map(read));
const worst = new Map(outputs.map((output) => [output.name, 0])); // difference / what is allowed
let compared = 0;
for (const [from, to] of golden.batches ?? [[0, null]]) {
  const feeds = {};
  for (const input of inputs) {
    const part = rows(input, from, to);
    feeds[input.name] = new ort.Tensor(input.dtype, part.data, part.shape);
  }
  const answers = await session.run(feeds);
  for (const output of outputs) {
    const wanted = rows(output, from, to);
    const answer = answers[output.name];
    if (answer === undefined || String(answer.dims) !== String(wanted.shape) || answer.type !== output.dtype) {
      const found = answer === undefined ? "nothing" : `${answer.type} [${answer.dims}]`;
      console.error(`${output.name}: expected ${output.dtype} [${wanted.shape}], found ${found}`);
      process.exit(1);
    }
    const { atol, rtol } = contract.tolerances[output.name] ?? { atol: 0, rtol: 0 };
    const value = output.datatype === "FP16" ? half : Number;
    wanted.data.forEach((expected, at) => {
      const margin = ratio(answer.data[at], expected, value, atol, rtol);
      worst.set(output.name, Math.max(worst.get(output.name), margin));
    });
    compared += wanted.data.length;
  }
}
for (const [name, margin] of worst) {
  const share = margin <= 1 ? `${margin.toFixed(4)} of what is allowed` : "beyond what is allowed";
  console.log(`${name}: the largest difference is ${share}`);
}
const right = compared > 0 && [...worst.values()].every((margin) => margin <= 1);
console.log(`${contract.name} ${contract.version}: ${compared} values, ${right ? "as the source model's" : "NOT the source model's"}`);
process.exit(right ? 0 : 1);

/** A tensor of the index, with its values. */
async function read(tensor) {
  const content = await readFile(join(bundle, tensor.file));
  if (tensor.offset === null) return { ...tensor, data: JSON.parse(content) };
  const start = content.byteOffset + tensor.offset; // a copy from there on is aligned as typed arrays need it
  const values = content.buffer.slice(start, content.byteOffset + content.byteLength);
  return { ...tensor, data: new ARRAYS[tensor.datatype](values) };
}

/** The rows [from, to) of a tensor; all of it where `to` is null. */
function rows(tensor, from, to) {
  if (to === null) return tensor;
  const width = tensor.shape.slice(1).reduce((product, size) => product * size, 1);
  return { data: tensor.data.slice(from * width, to * width), shape: [to - from, ...tensor.shape.slice(1)] };
}

/** |answer - expected| as a share of what is allowed: 0 when equal, infinite where nothing is or a value is not finite. */
function ratio(answer, expected, value, atol, rtol) {
  if (answer === expected) return 0;
  if (typeof expected === "string") return Infinity;
  const [left, right] = [value(answer), value(expected)];
  if (left === right || (Number.isNaN(left) && Number.isNaN(right))) {
    return typeof expected === "bigint" ? Infinity : 0; // unequal integers that only look equal as numbers
  }
  const margin = Math.abs(left - right) / (atol + rtol * Math.abs(right));
  return Number.isFinite(right) && Number.isFinite(margin) ? margin : Infinity;
}

/** IEEE 754 binary16 bits → number. */
function half(bits) {
  const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -14 * (fraction / 1024);
}
