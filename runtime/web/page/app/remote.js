// The model of a server: the same interface as a model in the browser, but the server translates.

import { targetSize } from '../lib/image-input.js'
import { randomCode } from '../lib/random-style.js'
import { LiveSession } from './live.js'
import { translateVideo } from './remote-video.js'
import { ask, signIn } from './server-api.js'

/** @typedef {import('../lib/dsmap.js').Site} Site */
/** @typedef {import('../lib/translator.js').Image} Image */
/** @typedef {import('../lib/translator.js').TranslateOptions} TranslateOptions */

/**
 * Signs in where the server wants a token. Rejects with an Error for people.
 * @param {Site} site
 * @returns {Promise<import('../lib/dsmap.js').Model>} a `RemoteModel`, which has what the page uses of a `Model`
 */
export async function openRemote (site) {
  if (site.server?.token) await signIn()
  return /** @type {any} */ (new RemoteModel(site))
}

export class RemoteModel {
  /** @param {Site} site */
  constructor (site) { this.site = site }

  /**
   * @param {string} target
   * @returns {Promise<RemoteTranslator>}
   */
  async open (target) { return new RemoteTranslator(this.site, target) }

  /**
   * Begins a live session; see `LiveSession`.
   * @param {MediaStreamTrack} track
   * @param {import('./live.js').LiveOptions} options
   */
  openLive (track, options) { return LiveSession.open(track, options) }

  /**
   * Translates a video file; see `translateVideo`.
   * @param {File} file
   * @param {import('./remote-video.js').RemoteVideoOptions} options
   */
  translateVideo (file, options) { return translateVideo(file, options) }
}

export class RemoteTranslator {
  /**
   * @param {Site} site
   * @param {string} target
   */
  constructor (site, target) {
    this.site = site
    this.target = target
    this.source = site.directions.find(one => one.target === target)?.source ?? ''
    /** @type {{name: string, reason: string, psnr: number | null, refused: {name: string, reason: string}[]}} */
    this.backend = { name: `${site.server?.backend ?? 'unknown'} (server)`, reason: `${location.host} translates.`, psnr: null, refused: [] }
  }

  /**
   * As `Translator.translate`.
   * @param {Image} image
   * @param {TranslateOptions} [options]
   * @returns {Promise<ImageData>}
   */
  async translate (image, { style = null, strength = 1, width, height, seed } = {}) {
    const code = seed === undefined ? style : randomCode(this.site.styles[this.target], seed)
    const size = targetSize(image, width, height)
    const form = new FormData()
    form.set('image', await asPng(image, size.width, size.height))
    form.set('domain', this.target)
    form.set('strength', String(strength))
    if (code?.length) form.set('style_code', Array.from(code).join(','))
    const answer = await ask('v1/images', { method: 'POST', body: form })
    const result = await createImageBitmap(await answer.blob(), { colorSpaceConversion: 'none' })
    try {
      return drawn(result, result.width, result.height).getImageData(0, 0, result.width, result.height)
    } finally {
      result.close()
    }
  }

  /**
   * As `Translator.encodeStyle`.
   * @param {Image} image
   * @returns {Promise<Float32Array>}
   */
  async encodeStyle (image) {
    const form = new FormData()
    const { width, height } = targetSize(image)
    form.set('image', await asPng(image, width, height))
    form.set('domain', this.target)
    const { code } = await (await ask('v1/styles', { method: 'POST', body: form })).json()
    return Float32Array.from(code)
  }

  /** As `Translator.randomStyle`: a seed's style is the same as in Python. @param {number} [seed] */
  randomStyle (seed = Math.floor(Math.random() * 2 ** 32)) { return randomCode(this.site.styles[this.target], seed) }

  /** Nothing is held here. */
  close () {}
}

/**
 * The image at that size, as it can be uploaded without loss.
 * @param {Image} image
 * @param {number} width
 * @param {number} height
 */
async function asPng (image, width, height) {
  const whole = image instanceof ImageData ? await createImageBitmap(image) : image
  return drawn(whole, width, height).canvas.convertToBlob({ type: 'image/png' })
}

/**
 * Transparent pixels lie on white, as in the browser's own translations.
 * @param {CanvasImageSource} image
 * @param {number} width
 * @param {number} height
 */
function drawn (image, width, height) {
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (new OffscreenCanvas(width, height).getContext('2d', { willReadFrequently: true }))
  context.imageSmoothingQuality = 'high'
  context.fillStyle = 'white'
  context.fillRect(0, 0, width, height)
  context.drawImage(image, 0, 0, width, height)
  return context
}
