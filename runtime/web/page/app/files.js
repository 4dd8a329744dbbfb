// Choosing files: by the browser's dialogue, by dropping them anywhere on the stage, or by pasting them.

import { button, el, fileName, icon } from './dom.js'

/**
 * @typedef {object} FilesOptions
 * @property {string} accept as an input's `accept`: the dialogue shows these
 * @property {boolean} [multiple]
 * @property {(files: File[]) => void} onFiles
 */

/**
 * Takes files that are dropped on `root` or pasted while it is shown, and opens the dialogue with `choose`. `close` ends that.
 * @param {HTMLElement} root
 * @param {FilesOptions} options
 */
export function takeFiles (root, { accept, multiple = false, onFiles }) {
  const input = el('input', { type: 'file', accept, multiple, hidden: true, id: 'files' })
  const take = (/** @type {Iterable<File> | null | undefined} */ list) => {
    const files = [...list ?? []]
    if (files.length) onFiles(multiple ? files : files.slice(0, 1))
    return files.length > 0
  }
  const over = (/** @type {DragEvent} */ event) => {
    if (!event.dataTransfer?.types.includes('Files')) return
    event.preventDefault()
    root.classList.add('dropping')
  }
  const leave = (/** @type {DragEvent} */ event) => {
    if (!root.contains(/** @type {Node | null} */ (event.relatedTarget))) root.classList.remove('dropping')
  }
  const drop = (/** @type {DragEvent} */ event) => {
    if (!event.dataTransfer?.types.includes('Files')) return
    event.preventDefault()
    root.classList.remove('dropping')
    take(event.dataTransfer.files)
  }
  const paste = (/** @type {ClipboardEvent} */ event) => { if (take(event.clipboardData?.files)) event.preventDefault() }
  // A file dropped beside the stage would replace the page.
  const astray = (/** @type {DragEvent} */ event) => event.preventDefault()

  input.addEventListener('change', () => {
    take(input.files)
    input.value = ''
  })
  root.append(input)
  root.addEventListener('dragover', over)
  root.addEventListener('dragleave', leave)
  root.addEventListener('drop', drop)
  window.addEventListener('paste', paste)
  window.addEventListener('dragover', astray)
  window.addEventListener('drop', astray)
  return {
    choose: () => input.click(),
    close () {
      input.remove()
      root.classList.remove('dropping')
      root.removeEventListener('dragover', over)
      root.removeEventListener('dragleave', leave)
      root.removeEventListener('drop', drop)
      window.removeEventListener('paste', paste)
      window.removeEventListener('dragover', astray)
      window.removeEventListener('drop', astray)
    }
  }
}

/** Whether files can be dropped: not by a finger. */
export const canDrop = () => !matchMedia('(hover: none) and (pointer: coarse)').matches

/**
 * What is shown while nothing has been chosen.
 * @param {{icon: string, title: string, text: string, action: string, note: string, onclick: () => void}} options
 */
export function invitation ({ icon: name, title, text, action, note, onclick }) {
  const words = [el('p', { class: 'empty-title' }, title), el('p', { class: 'text' }, text)]
  const choose = button({ icon: 'upload', text: action, class: 'primary', id: 'choose', onclick })
  return el('div', { class: 'empty drop' }, icon(name), ...words, choose, el('p', { class: 'hint' }, note))
}

/**
 * A file's size in words.
 * @param {number} bytes
 */
export function sizeText (bytes) {
  return bytes < 1e6 ? `${Math.max(1, Math.round(bytes / 1e3))} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`
}

/**
 * A time in words, rounded as one would say it.
 * @param {number} seconds
 */
export function timeText (seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`
  return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`
}

/**
 * The name of a translation: that of the original and the domain it was translated to.
 * @param {string} name of the original
 * @param {string} domain
 * @param {string} extension
 */
export function resultName (name, domain, extension) {
  return `${fileName(name.replace(/\.[^.]{1,5}$/, ''), 80)}-${fileName(domain, 40, 'translated')}.${extension}`
}
