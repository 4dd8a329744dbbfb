// The mode for images: drop, paste or choose several; each is translated, compared and downloaded, and an error stays with its image.

import { createCompare } from './compare.js'
import { button, download, el, icon } from './dom.js'
import { canDrop, invitation, resultName, takeFiles } from './files.js'
import { decodeImage, toPng } from './image-files.js'
import { notify } from './notices.js'
import { zip } from './zip.js'

/** @typedef {import('./session.js').Session} Session */

// The longer side of what is shown; the download has all pixels.
const SHOWN = 1024
// Images at once.
const MOST = 200
const SETTLE = 150

/** Images that wait until their tab is shown again. @type {ImagesMode | null} */
let kept = null

/**
 * @param {HTMLElement} root
 * @param {Session} session
 */
export function mount (root, session) {
  const mode = kept?.session === session ? kept : new ImagesMode(session)
  kept = null
  mode.show(root)
  return { unmount: () => mode.unmount() }
}

class ImagesMode {
  /** @param {Session} session */
  constructor (session) {
    this.session = session
    this.stopped = new AbortController()
    /** @type {ImageCard[]} */
    this.cards = []
    this.working = false
    this.body = el('div', { class: 'mode' })
    this.shown = false
    session.addEventListener('change', event => this.changed(/** @type {CustomEvent} */ (event).detail), { signal: this.stopped.signal })
  }

  /** @param {HTMLElement} root */
  show (root) {
    this.shown = true
    root.append(this.body)
    this.files = takeFiles(root, { accept: 'image/*', multiple: true, onFiles: files => this.add(files) })
    if (!this.cards.length) return this.invite()
    this.showSummary()
    this.work()
  }

  invite () {
    const where = this.session.remote ? 'They are sent to the server of this page' : 'They stay on this machine'
    this.body.replaceChildren(invitation({
      icon: 'images',
      title: canDrop() ? 'Drop images here, or paste one' : 'Choose images',
      text: `JPEG, PNG, WebP, AVIF or GIF, several at once. They are translated to ${this.session.wanted}.`,
      action: 'Choose images',
      note: `${where}.`,
      onclick: () => this.files?.choose()
    }))
  }

  showList () {
    this.list = el('ul', { class: 'cards', id: 'images', 'aria-label': 'Images' })
    this.summary = el('p', { class: 'facts', id: 'images-summary', role: 'status' })
    this.save = button({ icon: 'download', text: 'Download all', class: 'primary', id: 'download-all', onclick: () => this.saveAll() })
    const more = button({ icon: 'upload', text: 'More', label: 'More images', id: 'more', onclick: () => this.files?.choose() })
    const none = button({ icon: 'close', label: 'Remove all', class: 'ghost', id: 'remove-all', onclick: () => this.clear() })
    this.body.replaceChildren(el('div', { class: 'scroll' }, this.list), el('div', { class: 'toolbar' }, more, this.save, none, this.summary))
  }

  /** @param {File[]} files */
  add (files) {
    if (!this.cards.length) this.showList()
    const room = MOST - this.cards.length
    if (files.length > room) notify(`${files.length - room} images were left out: ${MOST} at a time is the most.`, 'error')
    for (const file of files.slice(0, room)) {
      const card = new ImageCard(file, () => this.remove(card))
      this.cards.push(card)
      this.list?.append(card.root)
    }
    this.showSummary()
    this.work()
  }

  /** @param {Set<string>} names */
  changed (names) {
    if (!this.cards.length) return void (names.has('loading') && this.invite())
    if (names.size === 1 && names.has('loading')) return
    clearTimeout(this.settling)
    this.settling = setTimeout(() => {
      this.cards.forEach(card => card.queue())
      this.work()
    }, SETTLE)
  }

  /** Translates one image after the other until none waits. */
  async work () {
    if (this.working) return
    this.working = true
    try {
      for (let card; this.shown && (card = this.cards.find(card => card.state === 'waiting'));) {
        await card.translate(this.session)
        if (this.shown) this.showSummary()
      }
    } finally {
      this.working = false
    }
  }

  showSummary () {
    const count = (/** @type {string} */ state) => this.cards.filter(card => card.state === state).length
    const [ready, failed, all] = [count('done'), count('failed'), this.cards.length]
    const text = `${ready} of ${all} translated${failed ? `, ${failed} failed` : ''}`
    if (this.summary) this.summary.textContent = text
    if (this.save) this.save.disabled = ready === 0
    this.session.report(all ? { text: `${ready + failed} of ${all}` } : null)
  }

  async saveAll () {
    const done = this.cards.filter(card => card.result)
    if (done.length === 1) return done[0].save()
    const files = done.map(card => ({ name: /** @type {string} */ (card.name), blob: /** @type {Blob} */ (card.result) }))
    try {
      download(await zip(files), resultName('images', this.session.target, 'zip'))
    } catch (error) {
      notify(`The archive could not be made: ${/** @type {Error} */ (error).message}`, 'error')
    }
  }

  /** @param {ImageCard} card */
  remove (card) {
    this.cards = this.cards.filter(other => other !== card)
    card.close()
    if (this.cards.length) this.showSummary()
    else this.clear()
  }

  clear () {
    this.cards.forEach(card => card.close())
    this.cards = []
    this.session.report(null)
    this.invite()
  }

  /** Another tab is shown: the images stay, and the work waits. */
  unmount () {
    this.shown = false
    this.files?.close()
    this.body.remove()
    if (this.cards.length) kept = this
    else this.stopped.abort()
  }
}

/** One image: its original, its translation, and what went wrong with it. */
class ImageCard {
  /**
   * @param {File} file
   * @param {() => void} onRemove
   */
  constructor (file, onRemove) {
    this.file = file
    /** @type {'waiting' | 'working' | 'done' | 'failed' | 'removed'} */
    this.state = 'waiting'
    /** Whether the options changed since the work began. */
    this.outdated = false
    /** @type {Blob | null} */
    this.result = null
    this.name = ''
    this.compare = createCompare()
    this.view = el('div', { class: 'view' }, el('p', { class: 'empty' }, 'Waiting…'))
    this.words = el('p', { class: 'facts' }, 'Waiting')
    this.saveButton = button({ icon: 'download', label: `Download the translation of ${file.name}`, class: 'small save', disabled: true, onclick: () => this.save() })
    const remove = button({ icon: 'close', label: `Remove ${file.name}`, class: 'small ghost', onclick: onRemove })
    const names = el('div', { class: 'names' }, el('p', { class: 'file-name', title: file.name }, file.name), this.words)
    this.root = el('li', { class: 'image-card' }, this.view, el('div', { class: 'caption' }, names, this.saveButton, remove))
  }

  /** Has it translated again. */
  queue () {
    if (this.state === 'working') this.outdated = true
    else if (this.state !== 'removed' && !this.broken) this.state = 'waiting'
  }

  /** @param {Session} session */
  async translate (session) {
    this.state = 'working'
    this.outdated = false
    this.say('Translating…', 'busy')
    let image = null
    try {
      image = await decodeImage(this.file).catch((error) => {
        this.broken = true
        throw error
      })
      const size = session.fit(image.width, image.height, 'still')
      const [source, target] = [session.source, session.target]
      await session.startClip()
      const output = await session.translate(image, size)
      const blob = await toPng(output)
      if (this.removed) return
      this.compare.label(source, target)
      this.show(image, output)
      this.result = blob
      this.name = resultName(this.file.name, target, 'png')
      this.finish('done', `${output.width} × ${output.height}`)
    } catch (error) {
      this.fail(/** @type {Error} */ (error))
    } finally {
      image?.close()
    }
  }

  get removed () { return this.state === 'removed' }

  /**
   * @param {'done' | 'failed'} state
   * @param {string} text
   */
  finish (state, text) {
    if (this.removed) return
    this.state = this.outdated ? 'waiting' : state
    this.saveButton.disabled = !this.result
    this.root.dataset.state = state
    this.say(text, 'facts')
  }

  /** @param {Error} error */
  fail (error) {
    if (this.removed) return
    console.warn(this.file.name, error)
    this.result = null
    this.view.replaceChildren(el('div', { class: 'empty' }, icon('warning')))
    this.finish('failed', error.message)
    this.words.setAttribute('role', 'alert')
  }

  /**
   * @param {string} text
   * @param {string} kind
   */
  say (text, kind) {
    this.words.removeAttribute('role')
    this.words.className = kind
    this.words.textContent = text
  }

  /**
   * @param {ImageBitmap} before
   * @param {ImageData} after
   */
  show (before, after) {
    const { width, height } = after
    const scale = Math.min(1, SHOWN / Math.max(width, height))
    const [shownWidth, shownHeight] = [width, height].map(side => Math.max(1, Math.round(side * scale)))
    this.compare.resize(shownWidth, shownHeight)
    const [left, right] = [this.compare.before, this.compare.after].map(canvas => /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d')))
    left.drawImage(before, 0, 0, shownWidth, shownHeight)
    if (scale === 1) right.putImageData(after, 0, 0)
    else {
      const whole = new OffscreenCanvas(width, height)
      whole.getContext('2d')?.putImageData(after, 0, 0)
      right.drawImage(whole, 0, 0, shownWidth, shownHeight)
    }
    if (!this.compare.root.isConnected) this.view.replaceChildren(this.compare.root)
  }

  save () {
    if (this.result) download(this.result, this.name)
  }

  close () {
    this.state = 'removed'
    this.result = null
    this.compare.resize(1, 1)
    this.root.remove()
  }
}
