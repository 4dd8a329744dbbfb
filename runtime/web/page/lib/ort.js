/** ONNX Runtime Web: which of its builds runs a backend, and the part of its interface that is used here. */

/**
 * @typedef {{ data: any, dims: readonly number[], dispose(): void }} OrtTensor
 * @typedef {{ run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>, release(): Promise<void> }} OrtSession
 * @typedef {{
 *   env: {
 *     logLevel: string,
 *     wasm: { numThreads: number, wasmBinary: ArrayBuffer },
 *     webgpu: { device: Promise<GPUDevice> | GPUDevice | undefined, powerPreference?: string },
 *   },
 *   InferenceSession: { create(bytes: Uint8Array, options: Record<string, unknown>): Promise<OrtSession> },
 *   Tensor: new (type: string, data: ArrayBufferView, dims: readonly number[]) => OrtTensor,
 * }} Ort
 */

/** @typedef {'webgpu-fp16' | 'webgpu-fp32' | 'wasm-threads' | 'wasm'} BackendName */

/**
 * Loads the build for a backend: one per worker, as it has one memory and one device.
 * @param {URL} runtime folder
 * @param {BackendName} backend
 * @param {ArrayBuffer} binary its WebAssembly
 * @returns {Promise<Ort>}
 */
export async function loadOrt (runtime, backend, binary) {
  const [script] = buildFor(backend)
  /** @type {Ort} */
  const ort = await import(new URL(script, runtime).href)
  ort.env.logLevel = 'error'
  ort.env.wasm.wasmBinary = binary
  ort.env.wasm.numThreads = backend === 'wasm-threads' ? threads() : 1
  ort.env.webgpu.powerPreference = 'high-performance'
  return ort
}

/**
 * The two files of the build that runs a backend.
 * @param {BackendName} backend
 * @returns {[string, string]} script, WebAssembly
 */
export function buildFor (backend) {
  if (!isGpu(backend)) return ['ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm']
  // Half the download, and faster calls, where WebAssembly itself can wait for promises.
  return 'Suspending' in WebAssembly
    ? ['ort.jspi.bundle.min.mjs', 'ort-wasm-simd-threaded.jspi.wasm']
    : ['ort.webgpu.bundle.min.mjs', 'ort-wasm-simd-threaded.asyncify.wasm']
}

/** @param {BackendName} backend */
export function isGpu (backend) {
  return backend.startsWith('webgpu')
}

/** How many threads: all cores but one, for the page, and never more than help. */
function threads () {
  return Math.min(8, Math.max(2, navigator.hardwareConcurrency - 1))
}
