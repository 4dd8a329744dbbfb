// Makes the site work offline, and gives it the headers that threads need where the host cannot.
//
// Every version of the site has a cache of its own. What every visit needs is fetched when a version is installed, each
// file checked by its hash: a site that is being copied just now is not installed. Graphs and runtimes are kept when
// they are used, or when the page asks for it. A file that has not changed is taken over from the version before. The
// new version takes over when no page of the old one is open, or when the only open page says so: two versions are
// never mixed.

/** @typedef {{ version: string, files: Record<string, string> }} SiteVersion `files`: the first 16 digits of SHA-256 */
/** @typedef {Event & { waitUntil: (promise: Promise<unknown>) => void }} Extendable */

const worker = /** @type {any} */ (self)
worker.importScripts('site-version.js')
/** @type {SiteVersion} */
const { version, files } = worker.SITE_VERSION
/** @type {string} */
const scope = worker.registration.scope
const PREFIX = `dsmap ${scope} `
const CACHE = PREFIX + version
const LIST = new URL('site-version.json', scope).href
const LARGE = /^(runtime\/ort|model\/.*\.onnx$)/
const ISOLATION = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin'
}

worker.addEventListener('install', (/** @type {Extendable} */ event) => event.waitUntil(install()))
worker.addEventListener('activate', (/** @type {Extendable} */ event) => event.waitUntil(activate()))
worker.addEventListener('message', (/** @type {Extendable & MessageEvent} */ event) => event.waitUntil(onMessage(event)))
worker.addEventListener('fetch', (/** @type {any} */ event) => {
  const name = nameOf(event.request)
  if (name !== null) event.respondWith(answer(name, event.request))
})

/**
 * The file of the site that a request is for; null for everything else, which is none of our business.
 * @param {Request} request
 */
function nameOf (request) {
  const url = new URL(request.url)
  if (request.method !== 'GET' || !url.href.startsWith(scope)) return null
  const name = url.pathname.slice(new URL(scope).pathname.length) || 'index.html'
  return Object.hasOwn(files, name) ? name : null
}

/**
 * @param {string} name
 * @param {Request} request
 */
async function answer (name, request) {
  const cache = await caches.open(CACHE)
  const kept = await cache.match(address(name))
  if (kept) return isolated(kept)
  const response = await fetch(request)
  if (response.ok && LARGE.test(name)) {
    const copy = response.clone()
    copy.arrayBuffer().then((bytes) => keep(cache, name, bytes, copy)).catch(() => undefined)
  }
  return isolated(response)
}

/** @param {Response} response */
function isolated (response) {
  if (response.type === 'opaque' || response.type === 'opaqueredirect' || response.type === 'error') return response
  const headers = new Headers(response.headers)
  for (const [name, value] of Object.entries(ISOLATION)) headers.set(name, value)
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers })
}

/** Fetches what every visit needs, and takes over what has not changed. */
async function install () {
  const cache = await caches.open(CACHE)
  const missing = [...await takeOver(cache)].filter((name) => !LARGE.test(name))
  await Promise.all(missing.map((name) => load(cache, name)))
  await cache.put(LIST, new Response(JSON.stringify(files)))
}

/**
 * Copies unchanged files from other versions; gives the names of those that are still missing.
 * @param {Cache} cache
 */
async function takeOver (cache) {
  const missing = new Set(Object.keys(files))
  for (const key of await ownCaches()) {
    const old = await caches.open(key)
    const list = key === CACHE ? files : await (await old.match(LIST))?.json() ?? {}
    for (const name of [...missing]) {
      const kept = list[name] === files[name] ? await old.match(address(name)) : undefined
      if (!kept) continue
      if (old !== cache && key !== CACHE) await cache.put(address(name), kept)
      missing.delete(name)
    }
  }
  return missing
}

/**
 * Fetches a file, checks and keeps it. Throws where it cannot be had.
 * @param {Cache} cache
 * @param {string} name
 */
async function load (cache, name) {
  for (const mode of /** @type {RequestCache[]} */ (['no-cache', 'reload'])) {
    const response = await fetch(address(name), { cache: mode })
    if (response.ok && await keep(cache, name, await response.clone().arrayBuffer(), response)) return
  }
  throw new Error(`${name} is not that of version ${version}`)
}

/**
 * Keeps a file if it is the right one.
 * @param {Cache} cache
 * @param {string} name
 * @param {ArrayBuffer} bytes
 * @param {Response} response
 */
async function keep (cache, name, bytes, response) {
  const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))
  const hash = Array.from(digest.subarray(0, 8), (byte) => byte.toString(16).padStart(2, '0')).join('')
  if (hash !== files[name]) return false
  const headers = { 'Content-Type': response.headers.get('Content-Type') ?? 'application/octet-stream' }
  await cache.put(address(name), new Response(bytes, { headers }))
  return true
}

/** Deletes the caches of other versions. */
async function activate () {
  for (const key of await ownCaches()) if (key !== CACHE) await caches.delete(key)
  await worker.clients.claim()
}

/** @param {MessageEvent} event */
async function onMessage (event) {
  const { call, names } = event.data
  if (call === 'activate') {
    // The one page that asks is not yet running; others may be in the middle of something.
    const pages = await worker.clients.matchAll({ type: 'window', includeUncontrolled: true })
    const inScope = pages.filter((/** @type {{ url: string }} */ page) => page.url.startsWith(scope))
    if (inScope.length <= 1) await worker.skipWaiting()
  } else if (call === 'keep') {
    event.ports[0].postMessage(await keepAll(names))
  }
}

/**
 * Keeps files for later; gives the names of those that could not be had.
 * @param {string[]} names
 */
async function keepAll (names) {
  const cache = await caches.open(CACHE)
  /** @type {string[]} */
  const failed = []
  for (const name of names.filter((name) => Object.hasOwn(files, name))) {
    if (await cache.match(address(name))) continue
    await load(cache, name).catch(() => failed.push(name))
  }
  return failed
}

/** @param {string} name */
function address (name) {
  return new URL(name, scope).href
}

async function ownCaches () {
  return (await caches.keys()).filter((key) => key.startsWith(PREFIX))
}
