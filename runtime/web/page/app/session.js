// What all modes share: the model, the current translator, and the options that the controls set.

import { loadModel } from '../lib/dsmap.js'
import { endOffline, prepareOffline } from '../lib/offline.js'

/** @typedef {import('../lib/dsmap.js').Model} Model */
/** @typedef {import('../lib/dsmap.js').Translator} Translator */
/** What a server's model has besides. @typedef {{openLive: (track: MediaStreamTrack, options: object) => Promise<any>}} LiveModel */
/** @typedef {import('../lib/translator.js').Image} Image */

/**
 * Which style: the domain's mean, one of the bundle's, a random one, that of a picture, or something between two.
 * @typedef {{kind: 'mean'} | {kind: 'named', name: string} | {kind: 'random', seed: number} | {kind: 'picture', picture: ImageBitmap, name: string}
 *   | {kind: 'blend', from: string, to: string, amount: number}} StyleChoice
 * In a blend `from` and `to` are names of the bundle's styles, or '' for the mean.
 */

/**
 * `change`: an option or the translator changed; `detail` has the names of what changed: `target`, `translator`, `style`,
 * `strength`, `size`, `loading`.
 * `numbers`: a mode reported how fast it is (`detail` is a `Numbers`, or null when nothing runs).
 * @typedef {{fps?: number, delay?: number, width?: number, height?: number, text?: string}} Numbers
 * `delay` in milliseconds; `text` replaces what is not known, such as "3 of 7 images".
 */

export const STRENGTH_FULL = 1
/** @type {StyleChoice} */
const MEAN = { kind: 'mean' }
const AUTO_SIDE_SLOW = 256
const AUTO_SIDE_FAST = 512

/**
 * Opens the model of the page's folder.
 * @param {{backend?: string, onProgress?: (part: number) => void}} options `onProgress`: how much is loaded, from 0 to 1
 * @returns {Promise<Session>}
 */
export async function openSession ({ backend = 'auto', onProgress } = {}) {
  const model = await loadModel(new URL('.', document.baseURI), { backend, onProgress })
  if (!model.site.server) {
    const reason = await prepareOffline(backend)
    const session = new Session(model)
    session.notOffline = reason
    return session
  }
  await endOffline().catch(() => undefined)
  const { openRemote } = await import('./remote.js')
  return new Session(await openRemote(model.site))
}

export class Session extends EventTarget {
  /** @param {Model} model */
  constructor (model) {
    super()
    this.model = model
    this.site = model.site
    /** Whether frames leave this machine. */
    this.remote = Boolean(model.site.server)
    /** Why the page will not work offline; empty if it will. */
    this.notOffline = ''
    /** @type {Translator | null} null until the first one is loaded */
    this.translator = null
    /** The domain that is translated to. While another direction loads it is still the old one; see `wanted`. */
    this.target = this.directions[0].target
    /** The domain that was chosen last, which may still be loading. */
    this.wanted = this.target
    /** @type {StyleChoice} */
    this.choice = { kind: 'mean' }
    /** @type {Float32Array} the code of `choice` */
    this.style = this.#mean(this.target)
    /** 0 (the original) to 1 */
    this.strength = STRENGTH_FULL
    /** The shorter side that images are scaled down to; 0: as they are; 'auto': what suits the mode and the backend. @type {number | 'auto'} */
    this.size = 'auto'
    this.#users = new Map()
    this.#orders = { target: 0, style: 0 }
  }

  /** @type {Map<Translator, number>} how many translations are under way */
  #users
  #orders
  #loading = false

  /** In the order of the model's domains: from the first one comes first. */
  get directions () {
    const { directions, domains } = this.site
    return [...directions].sort((a, b) => domains.indexOf(a.source) - domains.indexOf(b.source))
  }

  /** The domain that is translated from. */
  get source () {
    return this.directions.find(direction => direction.target === this.target)?.source ?? ''
  }

  /** Whether a direction is being loaded. */
  get loading () {
    return this.#loading
  }

  /** Whether translations have a style. */
  get hasStyles () {
    return this.site.style_dim > 0
  }

  /** Whether a picture's style can be read. */
  get readsPictures () {
    const files = Object.values(this.site.files ?? {})
    return this.remote || files.some((/** @type {any} */ parts) => parts.style_encoder?.[this.wanted])
  }

  /** Names of the bundle's styles for the target. */
  get named () {
    return Object.keys(this.site.styles[this.target]?.named ?? {})
  }

  /**
   * Loads the translator to `target`; until it is there the current one goes on. Rejects with the loader's error, and
   * everything stays as it was. A later call wins over this one.
   * @param {string} target
   */
  async setTarget (target) {
    const order = ++this.#orders.target
    this.wanted = target
    this.#loading = true
    this.#emit('loading')
    let translator
    try {
      if (!this.translator || target !== this.target) translator = await this.model.open(target)
    } catch (error) {
      if (order === this.#orders.target) {
        this.wanted = this.target
        this.#loading = false
        this.#emit('loading')
      }
      throw error
    }
    if (order !== this.#orders.target) return translator?.close()
    if (translator && !await this.#take(translator, target)) return
    this.#loading = false
    this.#emit('loading', 'target', 'translator', 'style')
  }

  /**
   * Sets the style. Rejects if a picture's cannot be read; the style then stays.
   * @param {StyleChoice} choice
   */
  async setStyle (choice) {
    const order = ++this.#orders.style
    const code = await this.#code(choice, this.target, this.translator)
    if (order !== this.#orders.style) return
    this.choice = choice
    this.style = code
    this.#emit('style')
  }

  /** @param {number} strength */
  setStrength (strength) {
    this.strength = Math.min(1, Math.max(0, strength))
    this.#emit('strength')
  }

  /** @param {number | 'auto'} size */
  setSize (size) {
    this.size = size
    this.#emit('size')
  }

  /**
   * Width and height that an image is translated at: scaled down to the size that was chosen, never up.
   * @param {number} width
   * @param {number} height
   * @param {'live' | 'still'} use `live` chooses a size that is fast where the user left it to us
   */
  fit (width, height, use) {
    const fast = this.remote ? this.site.server?.fast : this.translator?.backend.name.startsWith('webgpu')
    const side = this.size === 'auto' ? (use === 'still' ? 0 : fast ? AUTO_SIDE_FAST : AUTO_SIDE_SLOW) : this.size
    const scale = side ? Math.min(1, side / Math.min(width, height)) : 1
    const even = (/** @type {number} */ value) => Math.max(2, 2 * Math.round((value * scale) / 2))
    return scale === 1 ? { width, height } : { width: even(width), height: even(height) }
  }

  /**
   * Translates one image with the current options. Rejects while no translator is loaded.
   * @param {Image} image
   * @param {{width?: number, height?: number, style?: Float32Array, strength?: number}} [options] in place of the current ones
   * @returns {Promise<ImageData>}
   */
  async translate (image, options = {}) {
    const { translator } = this
    if (!translator) throw new Error('The model is still loading.')
    return this.#using(translator, () =>
      translator.translate(image, { style: this.style, strength: this.strength, ...options }))
  }

  /** Another clip begins: where the strength is below 1 the style of the source is read anew, from its first image. */
  async startClip () {
    const { translator } = this
    if (translator && 'startClip' in translator) await translator.startClip()
  }

  /**
   * Shows how fast the mode is in the page's last line.
   * @param {Numbers | null} numbers
   */
  report (numbers) {
    this.dispatchEvent(new CustomEvent('numbers', { detail: numbers }))
  }

  /**
   * Replaces the translator together with the style's code, and frees the old one when its last translation is done.
   * @param {Translator} translator
   * @param {string} target
   * @returns {Promise<boolean>} false: another direction was chosen meanwhile
   */
  async #take (translator, target) {
    const order = this.#orders.target
    let wanted, choice, style
    do {
      wanted = this.choice // may change while its code is computed
      choice = this.#choiceFor(target)
      try {
        style = await this.#code(choice, target, translator)
      } catch {
        choice = MEAN // seen in the controls; the direction is right all the same
        style = this.#mean(target)
      }
      if (order !== this.#orders.target) {
        translator.close()
        return false
      }
    } while (wanted !== this.choice)
    const old = this.translator
    ++this.#orders.style
    Object.assign(this, { translator, target, choice, style })
    if (old && !this.#users.get(old)) old.close()
    return true
  }

  /**
   * The current choice for another domain: of the bundle's styles, the one of the same name or the mean.
   * @param {string} target
   * @returns {StyleChoice}
   */
  #choiceFor (target) {
    const { choice } = this
    const named = this.site.styles[target]?.named ?? {}
    const lost = choice.kind === 'named' ? !Object.hasOwn(named, choice.name) : choice.kind === 'blend'
    return lost ? { kind: 'mean' } : choice
  }

  /**
   * @param {Translator} translator
   * @param {() => Promise<any>} work
   */
  async #using (translator, work) {
    this.#users.set(translator, (this.#users.get(translator) ?? 0) + 1)
    try {
      return await work()
    } finally {
      const left = (this.#users.get(translator) ?? 1) - 1
      if (left) this.#users.set(translator, left)
      else {
        this.#users.delete(translator)
        if (translator !== this.translator) translator.close()
      }
    }
  }

  /**
   * @param {StyleChoice} choice
   * @param {string} target
   * @param {Translator | null} translator to `target`
   * @returns {Promise<Float32Array>}
   */
  async #code (choice, target, translator) {
    if (choice.kind === 'mean') return this.#mean(target)
    if (choice.kind === 'named') return this.#named(choice.name, target)
    if (choice.kind === 'blend') {
      const from = this.#named(choice.from, target)
      const to = this.#named(choice.to, target)
      return from.map((value, at) => value + (to[at] - value) * choice.amount)
    }
    if (!translator) throw new Error('The model is still loading.')
    if (choice.kind === 'random') return translator.randomStyle(choice.seed)
    if (translator !== this.translator) return translator.encodeStyle(choice.picture) // not in use yet
    return this.#using(translator, () => translator.encodeStyle(choice.picture))
  }

  /**
   * @param {string} name '' is the mean
   * @param {string} target
   */
  #named (name, target) {
    return name ? Float32Array.from(this.site.styles[target].named[name]) : this.#mean(target)
  }

  /** @param {string} target */
  #mean (target) {
    return Float32Array.from(this.site.styles[target].mean)
  }

  /** @param {...string} names */
  #emit (...names) {
    this.dispatchEvent(new CustomEvent('change', { detail: new Set(names) }))
  }
}
