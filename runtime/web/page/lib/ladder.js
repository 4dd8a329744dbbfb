/** Which backends to try, in which order, and why: GPUs first, then WebAssembly. */

import { DsmapError } from './errors.js'

/**
 * @typedef {import('./ort.js').BackendName} BackendName
 * @typedef {{ name: BackendName, precision: string, reason: string }} Candidate
 * @typedef {{ name: BackendName, reason: string }} Refused
 */

/** @type {BackendName[]} */
export const BACKENDS = ['webgpu-fp16', 'webgpu-fp32', 'wasm-threads', 'wasm']
const FAMILIES = ['webgpu', 'wasm']

/**
 * The backends to try, best first, and those that cannot run here.
 * @param {string[]} precisions that the model has
 * @param {string} wanted `auto`, a backend, or `webgpu` or `wasm` for the first of them that runs
 * @returns {Promise<{ candidates: Candidate[], refused: Refused[] }>}
 */
export async function findBackends (precisions, wanted) {
  if (wanted !== 'auto' && !FAMILIES.includes(wanted) && !BACKENDS.some((name) => name === wanted)) {
    const known = ['auto', ...FAMILIES.slice(0, 1), ...BACKENDS].join(', ')
    throw new DsmapError('input', `There is no backend ${wanted}. Use one of ${known}.`)
  }
  const gpu = await lookAtGpu()
  /** @type {Candidate[]} */
  const candidates = []
  /** @type {Refused[]} */
  const refused = []
  for (const name of BACKENDS.filter((name) => isWanted(name, wanted))) {
    const precision = name === 'webgpu-fp16' ? 'fp16' : 'fp32'
    const fault = precisions.includes(precision)
      ? faultOf(name, gpu, wanted === 'auto')
      : `the model has no ${precision} graphs`
    if (fault) refused.push({ name, reason: fault })
    else candidates.push({ name, precision, reason: reasonFor(name, gpu, wanted, refused) })
  }
  return { candidates, refused }
}

/**
 * @param {BackendName} name
 * @param {string} wanted
 */
function isWanted (name, wanted) {
  return wanted === 'auto' || name === wanted || (FAMILIES.includes(wanted) && name.startsWith(wanted))
}

/** @typedef {{ fault: string, software: boolean, half: boolean, label: string }} Gpu */

/** @returns {Promise<Gpu>} */
async function lookAtGpu () {
  const none = { software: false, half: false, label: '' }
  if (!navigator.gpu) {
    const fault = globalThis.isSecureContext ? 'this browser has no WebGPU' : 'WebGPU needs HTTPS'
    return { ...none, fault }
  }
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: 'high-performance' }).catch(() => null)
  if (!adapter) return { ...none, fault: 'the browser gives no GPU for WebGPU' }
  const info = adapter.info ?? {}
  const label = [info.vendor, info.architecture].filter(Boolean).join(' ') || info.description || 'GPU'
  const software = Boolean(info.isFallbackAdapter) || /swiftshader|llvmpipe|basic render/i.test(`${label} ${info.description}`)
  return { fault: '', software, half: adapter.features.has('shader-f16'), label }
}

/**
 * Why a backend cannot run, or is not chosen by itself; empty if it can.
 * @param {BackendName} name
 * @param {Gpu} gpu
 * @param {boolean} auto
 * @returns {string}
 */
function faultOf (name, gpu, auto) {
  if (name.startsWith('webgpu')) {
    if (gpu.fault) return gpu.fault
    if (name === 'webgpu-fp16' && !gpu.half) return `the GPU (${gpu.label}) has no half precision (shader-f16)`
    if (auto && gpu.software) return `WebGPU runs in software here (${gpu.label}), slower than WebAssembly`
    return ''
  }
  if (typeof WebAssembly !== 'object') return 'this browser has no WebAssembly'
  if (name === 'wasm-threads') {
    if (!globalThis.crossOriginIsolated) return 'the page is not cross-origin isolated, which threads need'
    if (navigator.hardwareConcurrency < 2) return 'there is one core'
  }
  return ''
}

/**
 * @param {BackendName} name
 * @param {Gpu} gpu
 * @param {string} wanted
 * @param {Refused[]} refused
 */
function reasonFor (name, gpu, wanted, refused) {
  const what = name.startsWith('webgpu') ? gpu.label : `${navigator.hardwareConcurrency} cores`
  if (wanted === name) return `asked for (${what})`
  if (!refused.length) return wanted === 'auto' ? `the fastest (${what})` : `the first ${wanted} backend (${what})`
  return `the fastest that runs here (${what})`
}
