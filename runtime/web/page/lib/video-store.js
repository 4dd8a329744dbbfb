// Where a result is kept while it grows: a file of the browser's own (OPFS), which takes no memory, else memory.

import { loadMediabunny } from './video-read.js'

const FOLDER = 'dsmap-results'

/**
 * @typedef {object} Store
 * @property {import('mediabunny').Target} target to write to
 * @property {'file' | 'memory'} kind
 * @property {(type: string) => Promise<Blob>} finish the whole result; of a file, not a copy in memory
 * @property {() => Promise<void>} discard removes what was written, also after `finish`
 */

/** @returns {Promise<Store>} */
export async function createStore () {
  const { BufferTarget, StreamTarget } = await loadMediabunny()
  const file = await createFile().catch(() => null)
  if (file) {
    const target = new StreamTarget(file.writable, { chunked: true, chunkSize: 4 * 2 ** 20 })
    return { target, kind: 'file', finish: file.finish, discard: file.discard }
  }
  const target = new BufferTarget()
  return {
    target,
    kind: 'memory',
    finish: async type => new Blob([/** @type {ArrayBuffer} */ (target.buffer)], { type }),
    discard: async () => {}
  }
}

/**
 * A new file in the browser's own storage. A lock says that it is in use, so that another visit removes what a closed page
 * left behind, and nothing else.
 */
async function createFile () {
  if (!navigator.locks || !navigator.storage?.getDirectory) return null
  const folder = await (await navigator.storage.getDirectory()).getDirectoryHandle(FOLDER, { create: true })
  await removeAbandoned(folder)
  const name = crypto.randomUUID()
  let unlock = () => {}
  const locked = new Promise((resolve) => {
    navigator.locks.request(`${FOLDER}/${name}`, () => new Promise((release) => {
      unlock = () => release(undefined)
      resolve(undefined)
    }))
  })
  await locked
  const handle = await folder.getFileHandle(name, { create: true })
  const writable = await handle.createWritable()
  return {
    writable,
    finish: async (/** @type {string} */ type) => (await handle.getFile()).slice(0, undefined, type),
    discard: async () => {
      await writable.abort().catch(() => {})
      await folder.removeEntry(name).catch(() => {})
      unlock()
    }
  }
}

/** @param {FileSystemDirectoryHandle} folder */
async function removeAbandoned (folder) {
  for await (const name of folder.keys()) {
    await navigator.locks.request(`${FOLDER}/${name}`, { ifAvailable: true }, async (lock) => {
      if (lock) await folder.removeEntry(name).catch(() => {})
    })
  }
}
