/** One direction of a model, loaded and ready. */

import { DsmapError, messageOf } from './errors.js'
import { fetchBytes, fetchChecked, fetchLarge } from './files.js'
import { targetSize, transferable } from './image-input.js'
import { findBackends } from './ladder.js'
import { buildFor } from './ort.js'
import { randomCode } from './random-style.js'
import { own } from './site.js'
import { WorkerClient } from './worker-client.js'

/**
 * @typedef {import('./dsmap.js').Model} Model
 * @typedef {import('./engine.js').Role} Role
 * @typedef {import('./ladder.js').Candidate} Candidate
 * @typedef {import('./ladder.js').Refused} Refused
 * @typedef {import('./site.js').Component} Component
 * @typedef {[Role, Component]} Part
 * @typedef {[Role, import('./site.js').SiteFile]} Wanted
 * @typedef {import('./image-input.js').Image} Image
 * @typedef {{ name: import('./ort.js').BackendName, precision: string, reason: string, psnr: number, refused: Refused[] }} Backend
 * @typedef {{ style?: Float32Array | null, strength?: number, width?: number, height?: number, seed?: number }}
 *   TranslateOptions
 */

/** @type {Part[]} */
const TRANSLATION = [
  ['content_encoder', 'content_encoder'],
  ['mapping', 'mapping'],
  ['style_mlp', 'style_mlp'],
  ['decoder', 'decoder']
]
/** @type {Part[]} */
const STYLE = [['style_encoder', 'style_encoder']]
/** @type {Part[]} */
const RECONSTRUCTION = [
  ['source_style_encoder', 'style_encoder'],
  ['source_mapping', 'mapping'],
  ['source_style_mlp', 'style_mlp'],
  ['source_decoder', 'decoder']
]

/**
 * Opens the direction to `target`, on the first backend that computes the right image.
 * @param {Model} model
 * @param {string} target
 * @returns {Promise<Translator>}
 */
export async function openTranslator (model, target) {
  const direction = model.site.directions.find((one) => one.target === target)
  if (!direction) {
    const known = model.site.directions.map((one) => one.target).join(', ')
    throw new DsmapError('input', `The model does not translate to ${target}, but to ${known}.`)
  }
  const { candidates, refused } = await findBackends(model.site.precisions, model.backend)
  const translator = new Translator(model, direction.source, target, candidates, refused)
  await translator.start()
  return translator
}

/** Translates images to one domain. Calls are answered in order; keep no more than a few under way. */
export class Translator {
  /** @type {WorkerClient | null} */
  #worker = null
  /** @type {Set<Role>} */
  #loaded = new Set()
  /** @type {Candidate[]} */
  #candidates
  /** @type {Promise<void> | null} */
  #starting = null
  /** @type {Promise<unknown>} */
  #adding = Promise.resolve()
  #closed = false

  /**
   * Use `Model.open`.
   * @param {Model} model
   * @param {string} source
   * @param {string} target
   * @param {Candidate[]} candidates
   * @param {Refused[]} refused
   */
  constructor (model, source, target, candidates, refused) {
    this.model = model
    this.source = source
    this.target = target
    this.#candidates = candidates
    /** What runs, why, how near the first image came to the reference (dB), and what was refused. @type {Backend} */
    this.backend = { name: 'wasm', precision: '', reason: '', psnr: 0, refused }
  }

  /** Starts the first backend that runs. */
  async start () {
    while (this.#candidates.length) {
      const candidate = this.#candidates[0]
      try {
        await this.#startOn(candidate)
        return
      } catch (error) {
        this.#worker?.close()
        // Files that are missing or damaged are so for every backend.
        if (error instanceof DsmapError && ['missing', 'damaged', 'network', 'closed'].includes(error.code)) throw error
        this.backend.refused.push({ name: candidate.name, reason: messageOf(error) })
        this.#candidates.shift()
      }
    }
    const reasons = this.backend.refused.map(({ name, reason }) => `${name}: ${reason}`).join('; ')
    throw new DsmapError('backend', `No backend runs here. ${reasons}.`)
  }

  /**
   * Translates an image, which stays the caller's.
   * @param {Image} image
   * @param {TranslateOptions} [options] `style`: a code, null for the domain's mean; `seed`: a random style instead;
   *   `strength`: 0 (the image, reconstructed) to 1; `width`, `height`: translate at this size, which is that of the
   *   result; with one of them the other follows
   * @returns {Promise<ImageData>}
   */
  async translate (image, { style = null, strength = 1, width, height, seed } = {}) {
    if (!(strength >= 0 && strength <= 1)) throw new DsmapError('input', `The strength is ${strength}. Use 0 to 1.`)
    const code = this.#code(style, seed)
    const size = targetSize(image, width, height)
    if (strength < 1 || seed !== undefined) this.#needStyles()
    if (strength < 1) await this.#add(RECONSTRUCTION, this.source)
    const rgba = await this.#onImage('translate', image, { ...size, style: code, strength })
    return new ImageData(rgba, size.width, size.height)
  }

  /**
   * The style code of an image of the target domain.
   * @param {Image} image
   * @returns {Promise<Float32Array>}
   */
  async encodeStyle (image) {
    this.#needStyles()
    await this.#add(STYLE, this.target)
    return this.#onImage('encodeStyle', image, {})
  }

  /**
   * A random style code, for a seed the same as in Python.
   * @param {number} [seed] a whole number of 0 or more
   * @returns {Float32Array}
   */
  randomStyle (seed = Math.floor(Math.random() * 2 ** 31)) {
    return randomCode(this.#styles, seed)
  }

  #needStyles () {
    if (!this.model.site.style_dim) throw new DsmapError('input', 'This model has no styles, and no strength below 1.')
  }

  /** The domain's default style. */
  meanStyle () {
    return Float32Array.from(this.#styles.mean)
  }

  /** Of the target domain. */
  get #styles () {
    return own(this.model.site.styles, this.target) ?? { mean: [], std: [], named: {} }
  }

  /** Starts another clip or still: with a strength below 1 the style of the source is read from its first image. */
  async startClip () {
    const worker = await this.#running()
    await worker.call('startClip', {})
  }

  /** Ends the work, that under way too, and frees its memory. */
  close () {
    this.#closed = true
    this.#worker?.close()
  }

  /**
   * @param {Float32Array | null} style
   * @param {number} [seed]
   */
  #code (style, seed) {
    const code = style ?? (seed === undefined ? this.meanStyle() : this.randomStyle(seed))
    if (code.length !== this.model.site.style_dim) {
      throw new DsmapError('input', `A style has ${code.length} numbers, expected ${this.model.site.style_dim}.`)
    }
    return code
  }

  /**
   * A call with an image; when the GPU is lost, it is started again and the call repeated once.
   * @param {string} call
   * @param {Image} image
   * @param {Record<string, unknown>} given
   */
  async #onImage (call, image, given) {
    for (let attempt = 0; ; attempt++) {
      try {
        const worker = await this.#running()
        const copy = await transferable(image)
        return await worker.call(call, { ...given, image: copy }, copy instanceof ImageData ? [] : [copy])
      } catch (error) {
        if (!(error instanceof DsmapError) || error.code !== 'lost' || this.#closed || attempt) throw error
      }
    }
  }

  /** The worker; a new one where the last was lost. */
  async #running () {
    if (this.#closed) throw new DsmapError('closed', 'The translator was closed.')
    if (this.#worker?.ended) {
      const roles = [...this.#loaded]
      this.#starting ??= this.start()
        .then(() => this.#reload(roles, this.#worker))
        .finally(() => (this.#starting = null))
      await this.#starting
    }
    if (!this.#worker) throw new DsmapError('closed', 'The translator was not started.')
    return this.#worker
  }

  /** @param {Candidate} candidate */
  async #startOn ({ name, precision, reason }) {
    const { root, site } = this.model
    const worker = this.#worker = new WorkerClient()
    this.#loaded = new Set()
    const runtime = new URL('../runtime/', import.meta.url)
    const file = buildFor(name)[1]
    const size = own(site.runtime ?? {}, file)
    const wanted = this.#missing(TRANSLATION, this.target)
    const onBytes = progress((size ?? 0) + totalOf(wanted), this.model.onProgress)
    const [binary, graphs] = await Promise.all([
      fetchRuntime(new URL(file, runtime), size, onBytes),
      this.#fetch(wanted, onBytes)
    ])
    await worker.call('load', { backend: name, runtime: runtime.href, binary, sizes: site.sizes }, [binary])
    await this.#send(worker, graphs)
    const reference = own(site.reference, this.target)
    if (!reference) throw new DsmapError('damaged', `model/site.json has no reference for ${this.target}.`)
    const [frame, output] = await Promise.all(
      [reference.frame, reference.output].map((path) => fetchBytes(new URL(path, root)))
    )
    const expected = reference.width * reference.height * 3
    if (frame.byteLength !== expected || output.byteLength !== expected) {
      throw new DsmapError('damaged', `${reference.output} is damaged. Copy the site again, whole.`)
    }
    const { width, height } = reference
    const psnr = await worker.call('check', { width, height, frame, output, style: this.meanStyle() })
    const least = own(site.least_psnr, precision) ?? 40
    if (!(psnr >= least)) {
      throw new DsmapError(
        'backend',
        `its first image differs from the reference: PSNR ${psnr.toFixed(1)} dB, at least ${least} dB are needed`
      )
    }
    this.backend = { ...this.backend, name, precision, reason, psnr }
  }

  /**
   * Loads again what was loaded besides the translation.
   * @param {Role[]} roles
   * @param {WorkerClient | null} worker
   */
  async #reload (roles, worker) {
    if (!worker) return
    if (roles.includes('style_encoder')) await this.#addTo(worker, STYLE, this.target)
    if (roles.includes('source_decoder')) await this.#addTo(worker, RECONSTRUCTION, this.source)
  }

  /**
   * Loads graphs that are not loaded yet; one call after the other, so that none is loaded twice.
   * @param {Part[]} parts
   * @param {string} domain
   */
  #add (parts, domain) {
    const adding = this.#adding.then(async () => this.#addTo(await this.#running(), parts, domain))
    this.#adding = adding.catch(() => undefined)
    return adding
  }

  /**
   * @param {WorkerClient} worker
   * @param {Part[]} parts
   * @param {string} domain
   */
  async #addTo (worker, parts, domain) {
    const wanted = this.#missing(parts, domain)
    if (!wanted.length) return
    await this.#send(worker, await this.#fetch(wanted, progress(totalOf(wanted), this.model.onProgress)))
  }

  /**
   * The files of graphs that are not loaded yet.
   * @param {Part[]} parts
   * @param {string} domain
   * @returns {Wanted[]}
   */
  #missing (parts, domain) {
    const files = own(this.model.site.files, this.#candidates[0].precision)
    /** @type {Wanted[]} */
    const wanted = []
    const optional = this.model.site.style_dim ? ['mapping'] : ['mapping', 'style_mlp']
    for (const [role, component] of parts.filter(([role]) => !this.#loaded.has(role))) {
      const file = files && own(files[component], component === 'content_encoder' ? this.source : domain)
      if (file) wanted.push([role, file])
      else if (!optional.includes(component)) throw new DsmapError('damaged', `model/site.json lacks ${component}.`)
    }
    return wanted
  }

  /**
   * @param {Wanted[]} wanted
   * @param {(bytes: number) => void} onBytes
   * @returns {Promise<[Role, ArrayBuffer][]>}
   */
  #fetch (wanted, onBytes) {
    return Promise.all(wanted.map(async ([role, file]) => [role, await fetchChecked(this.model.root, file, onBytes)]))
  }

  /**
   * @param {WorkerClient} worker
   * @param {[Role, ArrayBuffer][]} graphs
   */
  async #send (worker, graphs) {
    await worker.call('add', { graphs: Object.fromEntries(graphs) }, graphs.map(([, bytes]) => bytes))
    for (const [role] of graphs) this.#loaded.add(role)
  }
}

/** @param {Wanted[]} wanted */
function totalOf (wanted) {
  return wanted.reduce((sum, [, file]) => sum + file.bytes, 0)
}

/**
 * Turns bytes that have come into parts of the whole.
 * @param {number} total
 * @param {import('./dsmap.js').OnProgress} [onProgress]
 * @returns {(bytes: number) => void}
 */
function progress (total, onProgress) {
  let done = 0
  return bytes => onProgress?.(Math.min(1, (done += bytes) / total))
}

/**
 * The WebAssembly of a build. Where it is not there, another backend may still be.
 * @param {URL} url
 * @param {number | undefined} size
 * @param {(bytes: number) => void} onBytes
 */
async function fetchRuntime (url, size, onBytes) {
  try {
    return await fetchLarge(url, size, onBytes)
  } catch (error) {
    if (!(error instanceof DsmapError) || error.code === 'network') throw error
    throw new DsmapError('backend', error.message)
  }
}
