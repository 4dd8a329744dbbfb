/**
 * Runs the graphs of one direction on one backend, so that the page never freezes. Calls are answered in order:
 *
 *     { id, call, ...arguments } -> { id, result } or { id, error: { code, message } }
 *
 * Without being asked it says { lost: reason } when the GPU is lost.
 */

import { Engine } from './engine.js'
import { messageOf } from './errors.js'
import { cropFrame, padFrame, psnr, readPart, readPixels, sizeOf } from './frames.js'
import { isGpu, loadOrt } from './ort.js'
import { styleImagePart } from './style-images.js'

/** @typedef {import('./site.js').Sizes} Sizes */

/** @type {Engine | null} */
let engine = null
/** @type {Sizes} */
let sizes
/** @type {Promise<unknown>} */
let last = Promise.resolve()

/** @type {Record<string, (message: any) => Promise<unknown>>} */
const CALLS = {
  /** Loads the build for a backend. */
  async load ({ backend, runtime, binary, sizes: given }) {
    sizes = given
    engine = new Engine(await loadOrt(new URL(runtime), backend, binary), backend)
  },

  /** Adds graphs: { role: bytes }. */
  async add ({ graphs }) {
    for (const [role, bytes] of Object.entries(graphs)) await ready().add(/** @type {any} */ (role), bytes)
    await watchDevice()
  },

  /** PSNR of the translation of a reference frame. */
  async check ({ width, height, frame, output, style }) {
    const result = await ready().translate({ width, height, data: new Uint8Array(frame) }, style, 1)
    return psnr(result.data, new Uint8Array(output))
  },

  /** Translates an image; the result is RGBA. */
  async translate ({ image, width, height, style, strength }) {
    try {
      const frame = padFrame(readPixels(image, width, height), width, height, sizes)
      return cropFrame(await ready().translate(frame, style, strength), width, height)
    } finally {
      image.close?.()
    }
  },

  /** The style code of an image. */
  async encodeStyle ({ image }) {
    try {
      const { part, width, height } = styleImagePart(...sizeOf(image), sizes)
      const frame = padFrame(readPart(image, part, width, height), width, height, sizes)
      return await ready().encodeStyle(frame, 'style_encoder')
    } finally {
      image.close?.()
    }
  },

  /** The source style is read again, from the next frame. */
  async startClip () {
    ready().sourceStyle = null
  }
}

function ready () {
  if (!engine) throw new Error('the backend is not loaded')
  return engine
}

let watching = false
/** What the GPU complained of. Its results are not to be trusted then. */
let complaint = ''

/** From now on, reports a lost GPU and heeds what it complains of. */
async function watchDevice () {
  const { ort, backend } = ready()
  if (watching || !isGpu(backend)) return
  const device = await ort.env.webgpu.device
  if (!device) return
  watching = true
  device.addEventListener('uncapturederror', (event) => { complaint ||= event.error.message })
  device.lost.then((info) => postMessage({ lost: info.message || info.reason || 'no reason was given' }))
}

/** @param {{ id: number, call: string }} message */
async function answer (message) {
  try {
    const result = await CALLS[message.call](message)
    if (complaint) throw new Error(`WebGPU: ${complaint}`)
    const buffers = ArrayBuffer.isView(result) ? [result.buffer] : []
    postMessage({ id: message.id, result }, { transfer: /** @type {ArrayBuffer[]} */ (buffers) })
  } catch (error) {
    postMessage({ id: message.id, error: { message: messageOf(error) } })
  }
}

addEventListener('message', ({ data }) => {
  last = last.then(() => answer(data))
})
