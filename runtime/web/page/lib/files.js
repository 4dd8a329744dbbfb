/** Fetching files of a site, and checking them. */

import { DsmapError } from './errors.js'
import { sha256 } from './sha256.js'

/** @typedef {import('./site.js').SiteFile} SiteFile */

/**
 * The bytes at an address. Throws DsmapError in plain words.
 * @param {URL} url
 * @param {RequestInit} [options]
 * @param {(bytes: number) => void} [onBytes] gets how many more have come
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchBytes (url, options, onBytes = () => undefined) {
  /** @type {Response} */
  let response
  try {
    response = await fetch(url, options)
  } catch {
    throw new DsmapError('network', `${shown(url)} cannot be loaded: there is no connection. Check it, then reload.`)
  }
  if (!response.ok) {
    const what = response.status === 404 ? 'is missing' : `cannot be loaded (the server says ${response.status})`
    throw new DsmapError('missing', `${shown(url)} ${what}. The site is incomplete: copy it again, whole.`)
  }
  try {
    const counted = new TransformStream({
      transform (chunk, controller) {
        onBytes(chunk.byteLength)
        controller.enqueue(chunk)
      }
    })
    return await new Response(response.body?.pipeThrough(counted)).arrayBuffer()
  } catch {
    throw new DsmapError('network', `${shown(url)} was cut off while it was loading. Check the connection, then reload.`)
  }
}

/**
 * The bytes of a file whose size alone is checked, as it is large.
 * @param {URL} url
 * @param {number | undefined} size undefined: not known
 * @param {(bytes: number) => void} onBytes
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchLarge (url, size, onBytes) {
  const bytes = await fetchBytes(url, {}, onBytes)
  if (size === undefined || bytes.byteLength === size) return bytes
  throw new DsmapError('damaged', `${shown(url)} is damaged: ${bytes.byteLength} bytes, expected ${size}. Copy the site again, whole.`)
}

/**
 * The bytes of a file of the model, which are those that the site was built with.
 * A copy that the browser has kept and that is another is loaded once more.
 * @param {URL} root of the site
 * @param {SiteFile} file
 * @param {(bytes: number) => void} [onBytes]
 * @returns {Promise<ArrayBuffer>}
 */
export async function fetchChecked (root, file, onBytes) {
  const url = new URL(file.path, root)
  const first = await fetchBytes(url, {}, onBytes)
  if (await isIntact(first, file)) return first
  const again = await fetchBytes(url, { cache: 'reload' })
  if (await isIntact(again, file)) return again
  const got
    = again.byteLength === file.bytes
      ? `SHA-256 ${(await sha256(again)).slice(0, 16)}..., expected ${file.sha256.slice(0, 16)}...`
      : `${again.byteLength} bytes, expected ${file.bytes}`
  throw new DsmapError('damaged', `${file.path} is damaged: ${got}. Copy the site again, whole.`)
}

/**
 * @param {ArrayBuffer} bytes
 * @param {SiteFile} file
 */
async function isIntact (bytes, file) {
  return bytes.byteLength === file.bytes && (await sha256(bytes)) === file.sha256
}

/** @param {URL} url */
function shown (url) {
  return url.pathname.split('/').slice(-2).join('/')
}
