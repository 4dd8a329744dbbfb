/** The graphs of one direction, in a worker: from frames to frames. */

import { mixFrames } from './frames.js'
import { isGpu } from './ort.js'

/**
 * @typedef {import('./frames.js').Frame} Frame
 * @typedef {import('./ort.js').Ort} Ort
 * @typedef {import('./ort.js').OrtSession} OrtSession
 * @typedef {import('./ort.js').OrtTensor} OrtTensor
 */

/**
 * What a graph is for. `source_*`: of the domain that frames come from, for their reconstruction.
 * @typedef {'content_encoder' | 'mapping' | 'style_mlp' | 'decoder' | 'style_encoder'
 *   | 'source_mapping' | 'source_style_mlp' | 'source_decoder' | 'source_style_encoder'} Role
 */

/** Outputs that the next graph takes: on a GPU they stay there. @type {Record<string, string[]>} */
const KEPT = {
  content_encoder: ['content', 'skip'],
  mapping: ['mapped'],
  source_mapping: ['mapped'],
  style_mlp: ['style_params'],
  source_style_mlp: ['style_params']
}

/** Runs the graphs. Calls must come one after the other. */
export class Engine {
  /**
   * @param {Ort} ort
   * @param {import('./ort.js').BackendName} backend
   */
  constructor (ort, backend) {
    this.ort = ort
    this.backend = backend
    /** @type {Map<Role, OrtSession>} */
    this.sessions = new Map()
    /** The last style of each decoder, and its parameters. @type {Map<string, { code: string, params: OrtTensor }>} */
    this.styled = new Map()
    /** Of the reconstruction, read from the first frame of a clip. @type {Float32Array | null} */
    this.sourceStyle = null
  }

  /**
   * Adds a graph.
   * @param {Role} role
   * @param {ArrayBuffer} bytes
   */
  async add (role, bytes) {
    const gpu = isGpu(this.backend)
    const locations = Object.fromEntries((KEPT[role] ?? []).map((name) => [name, 'gpu-buffer']))
    const session = await this.ort.InferenceSession.create(new Uint8Array(bytes), {
      executionProviders: [gpu ? 'webgpu' : 'wasm'],
      enableMemPattern: false,
      logSeverityLevel: 3, // errors: that shape sums run on the CPU is as it should be
      ...(gpu ? { preferredOutputLocation: locations } : {})
    })
    this.sessions.set(role, session)
  }

  /**
   * Translates a frame of a size that the graphs take.
   * @param {Frame} frame
   * @param {Float32Array} style code
   * @param {number} strength 0: the frame, reconstructed; 1: translated
   * @returns {Promise<Frame>}
   */
  async translate (frame, style, strength) {
    if (strength < 1) this.sourceStyle ??= await this.encodeStyle(frame, 'source_style_encoder')
    const encoded = await this.session('content_encoder').run({ frames: this.frameTensor(frame) })
    try {
      const rebuilt = strength < 1 && this.sourceStyle ? await this.decode(encoded, this.sourceStyle, 'source_') : null
      if (rebuilt && strength === 0) return rebuilt
      const translated = await this.decode(encoded, style, '')
      return rebuilt ? mixFrames(translated, rebuilt, strength) : translated
    } finally {
      encoded.content.dispose()
      encoded.skip?.dispose() // a model without mapping may have none
    }
  }

  /**
   * The style code of an image of a size that the graph takes.
   * @param {Frame} frame
   * @param {'style_encoder' | 'source_style_encoder'} role
   * @returns {Promise<Float32Array>}
   */
  async encodeStyle (frame, role) {
    const { style } = await this.session(role).run({ frames: this.frameTensor(frame) })
    return Float32Array.from(style.data)
  }

  /**
   * @param {Record<string, OrtTensor>} encoded
   * @param {Float32Array} style
   * @param {'' | 'source_'} prefix
   * @returns {Promise<Frame>}
   */
  async decode (encoded, style, prefix) {
    const mapping = this.sessions.get(`${prefix}mapping`)
    const mapped = mapping
      ? (await mapping.run({ content: encoded.content, skip: encoded.skip })).mapped
      : encoded.content
    try {
      /** @type {Record<string, OrtTensor>} */
      const inputs = { mapped }
      if (style.length) inputs.style_params = await this.styleParams(style, prefix)
      const { frames } = await this.session(`${prefix}decoder`).run(inputs)
      const [, height, width] = frames.dims
      const data = Uint8Array.from(frames.data) // its memory may be used again
      frames.dispose()
      return { width, height, data }
    } finally {
      if (mapping) mapped.dispose()
    }
  }

  /**
   * The parameters of a decoder for a style: computed once per style.
   * @param {Float32Array} style
   * @param {'' | 'source_'} prefix
   */
  async styleParams (style, prefix) {
    const code = style.join()
    const known = this.styled.get(prefix)
    if (known?.code === code) return known.params
    const tensor = new this.ort.Tensor('float32', style, [1, style.length])
    const { style_params: params } = await this.session(`${prefix}style_mlp`).run({ style: tensor })
    known?.params.dispose()
    this.styled.set(prefix, { code, params })
    return params
  }

  /**
   * @param {Role} role
   * @returns {OrtSession}
   */
  session (role) {
    const session = this.sessions.get(role)
    if (!session) throw new Error(`the graph ${role} is not loaded`)
    return session
  }

  /** @param {Frame} frame */
  frameTensor (frame) {
    return new this.ort.Tensor('uint8', frame.data, [1, frame.height, frame.width, 3])
  }
}
