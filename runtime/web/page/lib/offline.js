// Offline use, and threads where the host does not send the headers for them: the page's end of the service worker.

import { findBackends } from './ladder.js'
import { buildFor } from './ort.js'

/** @typedef {import('./translator.js').Translator} Translator */

const PATIENCE = 6000 // ms for what may take as long as it likes: the page begins without it
const NOT_AGAIN = 10000 // ms

/**
 * Installs the service worker. Call it before the model is loaded: if the site has a newer version, or if only a reload
 * brings the threads that the backend needs, the page is reloaded, and the promise stays open until then.
 * @param {string} [backend] as for `loadModel`
 * @returns {Promise<string>} why the page will not work offline; empty if it will
 */
export async function prepareOffline (backend = 'auto') {
  if (!('serviceWorker' in navigator)) {
    return isSecureContext ? 'this browser has no service workers here' : 'that needs HTTPS'
  }
  const container = navigator.serviceWorker
  try {
    const controlled = container.controller !== null
    const registration = await container.register(new URL('../service-worker.js', import.meta.url), { updateViaCache: 'none' })
    if (controlled && await activateNewer(registration)) await reload('version')
    if (!crossOriginIsolated && await needsThreads(backend) && await within(PATIENCE, container.ready)) await reload('threads')
    return ''
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

/**
 * Keeps what the model needs to work offline in all directions on the backend that runs now.
 * @param {Translator} translator
 * @returns {Promise<string[]>} names of files that could not be kept
 */
export async function keepOffline (translator) {
  const { name, precision } = translator.backend
  const graphs = Object.values(translator.model.site.files[precision] ?? {}).flatMap((part) => Object.values(part))
  const names = [...buildFor(name).map((file) => `runtime/${file}`), ...graphs.map((file) => file.path)]
  if (!('serviceWorker' in navigator) || !isSecureContext) return names
  const active = (await within(PATIENCE * 10, navigator.serviceWorker.ready))?.active
  if (!active) return names
  const channel = new MessageChannel()
  return new Promise((resolve) => {
    channel.port1.onmessage = ({ data }) => resolve(data)
    active.postMessage({ call: 'keep', names }, [channel.port2])
  })
}

/**
 * Ends what `prepareOffline` began, for a page that needs its server: the service worker goes, with all that it kept.
 */
export async function endOffline () {
  if (!('serviceWorker' in navigator)) return
  const scope = new URL('..', import.meta.url).href
  const registrations = await navigator.serviceWorker.getRegistrations().catch(() => [])
  for (const registration of registrations) if (registration.scope === scope) await registration.unregister()
  for (const key of await caches.keys()) if (key.startsWith(`dsmap ${scope} `)) await caches.delete(key)
}

/**
 * Looks for a newer version and lets it take over; whether it has.
 * @param {ServiceWorkerRegistration} registration
 */
async function activateNewer (registration) {
  await within(PATIENCE, registration.update().catch(() => undefined))
  const newer = registration.waiting ?? registration.installing
  if (!newer) return false
  if (!await within(PATIENCE, inState(newer, 'installed'))) return false // or it would take over in the middle of this visit
  const changed = new Promise((resolve) => navigator.serviceWorker.addEventListener('controllerchange', () => resolve(true), { once: true }))
  newer.postMessage({ call: 'activate' })
  return await within(PATIENCE / 6, changed) === true
}

/**
 * @param {ServiceWorker} worker
 * @param {ServiceWorkerState} state
 */
function inState (worker, state) {
  return new Promise((resolve) => {
    const look = () => { if (worker.state === state || worker.state === 'redundant') resolve(true) }
    worker.addEventListener('statechange', look)
    look()
  })
}

/** @param {string} backend */
async function needsThreads (backend) {
  const { candidates } = await findBackends(['fp32', 'fp16'], backend).catch(() => ({ candidates: [] }))
  return backend !== 'wasm' && candidates[0]?.name === 'wasm' && navigator.hardwareConcurrency > 1
}

/**
 * Reloads, unless that has just been tried. It stays open while the page goes.
 * @param {'version' | 'threads'} why
 */
async function reload (why) {
  const key = `dsmap-reloaded-for-${why}`
  if (Date.now() - Number(sessionStorage.getItem(key)) < NOT_AGAIN) return
  sessionStorage.setItem(key, String(Date.now()))
  location.reload()
  await new Promise(() => undefined)
}

/**
 * @template T
 * @param {number} milliseconds
 * @param {Promise<T>} promise
 * @returns {Promise<T | undefined>} undefined when it took longer
 */
function within (milliseconds, promise) {
  return Promise.race([promise, new Promise((resolve) => setTimeout(resolve, milliseconds))]).then((value) => /** @type {T | undefined} */ (value))
}
