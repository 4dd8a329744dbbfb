/**
 * Translates images in the browser, with a model that `dsmap web` has written.
 *
 *     import { loadModel } from './site/lib/dsmap.js';
 *     const model = await loadModel('./site/');
 *     const translator = await model.open('winter');
 *     const result = await translator.translate(await createImageBitmap(file)); // ImageData
 *
 * It touches no document; the work is done in a worker.
 */

import { DsmapError } from './errors.js'
import { readSite } from './site.js'
import { openTranslator, Translator } from './translator.js'

export { DsmapError, Translator }
export { BACKENDS } from './ladder.js'

/** @typedef {import('./site.js').Site} Site */
/** @typedef {import('./translator.js').Image} Image */
/** @typedef {import('./translator.js').TranslateOptions} TranslateOptions */
/** @typedef {(part: number) => void} OnProgress how much of what is being loaded is here, from 0 to 1 */

/**
 * Opens a model.
 * @param {string | URL} [url] of the site's folder; without it that which this module lies in
 * @param {{ backend?: string, onProgress?: OnProgress }} [options] `backend`: see `BACKENDS`; `auto`, `webgpu`, `wasm`
 * @returns {Promise<Model>}
 */
export async function loadModel (url = new URL('..', import.meta.url), { backend = 'auto', onProgress } = {}) {
  const root = new URL(url, globalThis.document?.baseURI ?? globalThis.location.href)
  if (!root.pathname.endsWith('/')) root.pathname = root.pathname.replace(/(model\/site\.json|index\.html)$/, '')
  if (!root.pathname.endsWith('/')) root.pathname += '/'
  return new Model(root, await readSite(root), backend, onProgress)
}

/** A model, of which nothing but its description is loaded yet. */
export class Model {
  /**
   * @param {URL} root of the site
   * @param {Site} site
   * @param {string} backend
   * @param {OnProgress} [onProgress]
   */
  constructor (root, site, backend, onProgress) {
    this.root = root
    this.site = site
    this.backend = backend
    this.onProgress = onProgress
  }

  /**
   * Loads the translation to a domain on the first backend that runs and computes the right image.
   * Throws DsmapError for an unknown domain, for files that are missing or damaged, and when no backend runs.
   * @param {string} target
   * @returns {Promise<Translator>}
   */
  async open (target) {
    return openTranslator(this, target)
  }
}
