// Several files as one archive, by client-zip.

/**
 * A ZIP archive; PNG files are stored as they are. Of files with the same name the later ones get a number.
 * @param {{name: string, blob: Blob}[]} files
 * @returns {Promise<Blob>}
 */
export async function zip (files) {
  const { downloadZip } = await import('../runtime/client-zip.mjs')
  const names = new Set()
  const entries = files.map(({ name, blob }) => ({ name: unused(name, names), input: blob, lastModified: new Date() }))
  return downloadZip(entries).blob()
}

/**
 * @param {string} name
 * @param {Set<string>} names that are taken; the result is added
 */
function unused (name, names) {
  const dot = name.lastIndexOf('.')
  let free = name
  for (let number = 2; names.has(free); number++) free = `${name.slice(0, dot)}-${number}${name.slice(dot)}`
  names.add(free)
  return free
}
