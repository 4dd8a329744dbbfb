// The service worker of a server's page, which takes the place of a static site's at the same address and ends it: that
// would go on to answer with the old page and the old model. It deletes what was kept, goes, and reloads what is open.

const OWN_RELOAD_MS = 2000
const ending = /** @type {any} */ (self)

ending.addEventListener('install', () => ending.skipWaiting())
ending.addEventListener('activate', (/** @type {any} */ event) => event.waitUntil(end()))

async function end () {
  const prefix = `dsmap ${ending.registration.scope} `
  for (const key of await caches.keys()) if (key.startsWith(prefix)) await caches.delete(key)
  const pages = await ending.clients.matchAll({ type: 'window' })
  await ending.registration.unregister()
  // A page that is just starting sees the change and reloads itself, with what stands after # in its address, which is
  // not known here.
  await new Promise(resolve => setTimeout(resolve, OWN_RELOAD_MS))
  for (const { id } of pages) {
    const page = await ending.clients.get(id)
    page?.navigate(page.url).catch(() => undefined) // not awaited: it may wait for this worker
  }
}
