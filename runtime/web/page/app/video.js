// The mode for video files: choose one, tune the translation on its first frame, translate, compare, download.

import { createCompare } from './compare.js'
import { button, byId, download, el, icon } from './dom.js'
import { canDrop, invitation, resultName, sizeText, takeFiles, timeText } from './files.js'
import { notify } from './notices.js'
import { createPlayer } from './video-player.js'
import { hasWebCodecs, inspectVideo, translateVideo } from '../lib/video.js'

/** @typedef {import('./session.js').Session} Session */
/** @typedef {import('../lib/video.js').VideoResult} VideoResult */
/** @typedef {Awaited<ReturnType<typeof inspectVideo>>} Facts */

// Milliseconds that a change of the options waits for the next one before the preview is made again.
const SETTLE = 80
/** Of a file that cannot be read here. @type {Facts} */
const UNKNOWN = { width: 0, height: 0, duration: 0, frameRate: 0, codec: '', sound: [], frame: null }
// Longer than the side of any frame.
const ENDLESS = 2 ** 20

/** A result that waits until its tab is shown again. @type {VideoMode | null} */
let kept = null

/**
 * @param {HTMLElement} root
 * @param {Session} session
 */
export function mount (root, session) {
  const mode = kept?.session === session ? kept : new VideoMode(session)
  kept = null
  mode.show(root)
  const question = () => mode.running ? 'The video is still being translated. Stop that?' : null
  return { unmount: () => mode.unmount(), key: (/** @type {string} */ key) => mode.key(key), question }
}

class VideoMode {
  /** @param {Session} session */
  constructor (session) {
    this.session = session
    this.compare = createCompare()
    this.stopped = new AbortController()
    /** @type {File | null} */
    this.file = null
    /** @type {Facts | null} */
    this.facts = null
    /** @type {AbortController | null} while a video is being translated */
    this.running = null
    /** @type {VideoResult | null} */
    this.result = null
    /** @type {ReturnType<typeof createPlayer> | null} */
    this.player = null
    /** Milliseconds that the first frame took. */
    this.pace = 0
    this.order = 0
    this.body = el('div', { class: 'mode' })
    /** Whether the result was downloaded. */
    this.saved = false
    const { signal } = this.stopped
    session.addEventListener('change', event => this.changed(/** @type {CustomEvent} */ (event).detail), { signal })
    window.addEventListener('beforeunload', (event) => { if (this.running || (this.result && !this.saved)) event.preventDefault() }, { signal })
  }

  /** @param {HTMLElement} root */
  show (root) {
    root.append(this.body)
    this.files = takeFiles(root, { accept: 'video/*,.mkv,.mov,.ts,.m2ts,.avi,.flv,.mpg,.vob,.wmv', onFiles: ([file]) => this.open(file) })
    if (!this.result) this.invite()
  }

  invite () {
    const where = this.session.remote ? 'It is sent to the server of this page' : 'It stays on this machine'
    this.body.replaceChildren(invitation({
      icon: 'video',
      title: canDrop() ? 'Drop a video here' : 'Choose a video',
      text: `${this.session.remote ? 'MP4, MOV, WebM, MKV, TS, AVI and more' : 'MP4, MOV, WebM, MKV or TS'}. Every frame is translated to ${this.session.wanted}, and the sound is kept.`,
      action: 'Choose a video',
      note: `${where}. Any length: the result grows on disk, not in memory.`,
      onclick: () => this.files?.choose()
    }))
  }

  /** @param {File} file */
  async open (file) {
    if (this.running) return notify('Cancel the translation first, then choose another video.')
    await this.clear()
    const order = ++this.order
    this.body.replaceChildren(el('div', { class: 'empty' }, el('p', { class: 'busy' }, `Reading ${file.name}…`)))
    try {
      const facts = await this.inspect(file)
      if (order !== this.order) return facts.frame?.close()
      this.file = file
      this.facts = facts
      this.ready()
      await this.preview()
    } catch (error) {
      if (order === this.order) this.failed(error)
    }
  }

  /**
   * @param {File} file
   * @returns {Promise<Facts>}
   */
  async inspect (file) {
    const { remote } = this.session
    try {
      // A server decodes what this browser cannot.
      if (hasWebCodecs()) return await inspectVideo(file, { decode: !remote })
      const { inspectByElement } = await import('./video-recorder.js')
      return await inspectByElement(file)
    } catch (error) {
      if (!remote || !file.size) throw error
      console.warn(error)
      return UNKNOWN // it reads other containers too, and says itself what it cannot read
    }
  }

  /** @param {unknown} error */
  failed (error) {
    const { message, advice } = /** @type {Error & {advice?: string}} */ (error)
    console.warn(error)
    const words = [el('p', { class: 'empty-title' }, sentence(message)), advice ? el('p', { class: 'text' }, sentence(advice)) : null]
    const back = this.file ? button({ text: 'Back', onclick: () => this.ready() }) : null
    const other = button({ icon: 'upload', text: 'Choose another video', class: 'primary', onclick: () => this.files?.choose() })
    this.body.replaceChildren(el('div', { class: 'empty', role: 'alert' }, icon('warning'), ...words, el('div', { class: 'actions' }, back, other)))
  }

  /** Shows the first frame and what the file is, with a button that starts. */
  ready () {
    const { facts, file } = this
    if (!facts || !file) return
    const start = button({ icon: 'play', text: 'Translate the video', class: 'primary', id: 'start', onclick: () => this.run() })
    const other = button({ icon: 'upload', text: 'Another video', onclick: () => this.files?.choose() })
    const about = facts === UNKNOWN ? [sizeText(file.size)] : [`${facts.width} × ${facts.height}`, timeText(facts.duration), `${Number(facts.frameRate.toFixed(2))} fps`, facts.codec, ...facts.sound.length ? facts.sound : ['no sound']]
    this.estimate = el('p', { class: 'facts', id: 'estimate', role: 'status' })
    this.layout(start, other, el('p', { class: 'facts' }, el('b', {}, file.name), ` · ${about.join(' · ')}`), this.estimate)
    if (facts.frame) this.showPair(facts.frame, facts.frame)
    else if (facts === UNKNOWN) this.instead('This page cannot read the file. The server may be able to translate it.')
    else this.instead(`This browser cannot show the video (${facts.codec}). The server can translate it.`)
    this.showEstimate()
  }

  /** @param {string} text in the place of the compared pair */
  instead (text) {
    this.compare.root.replaceWith(el('p', { class: 'empty' }, text))
  }

  /**
   * The compared pair above a toolbar with these children.
   * @param {...(Node | null)} children
   */
  layout (...children) {
    this.compare.label(this.session.source, this.session.target)
    this.body.replaceChildren(el('div', { class: 'view' }, this.compare.root), el('div', { class: 'toolbar' }, ...children))
  }

  /** @param {Set<string>} names */
  changed (names) {
    if (this.running) return
    if (this.result) return names.has('loading') && names.size === 1 ? undefined : this.stale()
    if (!this.facts) return this.file ? undefined : this.body.querySelector('.drop') && this.invite()
    clearTimeout(this.settling)
    this.settling = setTimeout(() => this.preview().catch(error => notify(error.message, 'error')), SETTLE)
  }

  /** The options are no longer those of the result: offers to translate again. */
  stale () {
    this.again?.classList.add('primary')
  }

  /** Translates the first frame with the current options; of calls meanwhile one follows. */
  async preview () {
    this.outdated = true
    if (this.previewing) return
    this.previewing = true
    try {
      while (this.outdated) {
        this.outdated = false
        await this.previewOnce()
      }
    } finally {
      this.previewing = false
    }
  }

  async previewOnce () {
    const { session, facts } = this
    const current = () => facts && this.facts === facts && !this.running && !this.result
    if (!facts?.frame || !current() || !session.translator) return
    try {
      const started = performance.now()
      await session.startClip()
      const image = await session.translate(facts.frame, this.size())
      if (!current()) return
      this.pace = performance.now() - started
      this.compare.label(session.source, session.target)
      this.showPair(facts.frame, image)
      this.showEstimate()
    } catch (error) {
      // That of a video which was given up meanwhile is nobody's business.
      if (current()) throw error
    }
  }

  size () {
    const { width, height } = /** @type {Facts} */ (this.facts)
    if (this.facts === UNKNOWN) {
      const side = this.session.fit(ENDLESS, ENDLESS, 'live').height
      return { width: 0, height: side === ENDLESS ? 0 : side }
    }
    return this.session.fit(width, height, 'live')
  }

  showEstimate () {
    if (!this.estimate || !this.facts) return
    const { width, height } = this.size()
    const took = this.pace / 1000 * this.facts.duration * this.facts.frameRate
    const scaled = width < this.facts.width ? `Translated at ${width} × ${height}; choose a larger size in the settings. ` : ''
    this.estimate.textContent = scaled + (this.pace ? `It takes about ${timeText(took)} here.` : '')
  }

  /**
   * @param {CanvasImageSource} before
   * @param {CanvasImageSource | ImageData} after
   */
  showPair (before, after) {
    const { compare } = this
    const { width, height } = /** @type {{width: number, height: number}} */ (after)
    compare.resize(width, height)
    context(compare.before).drawImage(before, 0, 0, width, height)
    if (after instanceof ImageData) context(compare.after).putImageData(after, 0, 0)
    else context(compare.after).drawImage(after, 0, 0, width, height)
  }

  async run () {
    const { file, facts, session } = this
    if (!file || !facts || !session.translator) return
    await this.forget()
    const running = this.running = new AbortController()
    const bar = el('progress', { max: 1, value: 0, id: 'progress', 'aria-label': 'Part of the video that is translated' })
    const words = el('p', { class: 'facts', id: 'progress-text' }, 'Starting…')
    this.layout(bar, button({ icon: 'close', text: 'Cancel', id: 'cancel', onclick: () => running.abort() }), words)
    // One video, one set of options.
    byId('controls').inert = true
    const awake = await keepAwake()
    const target = session.target
    try {
      const result = await this.translate(file, running.signal, (fraction, text) => {
        bar.value = fraction
        words.textContent = text
      })
      this.running = null
      this.done(file, result, target)
    } catch (error) {
      this.running = null
      if (running.signal.aborted) this.cancelled()
      else this.failed(error)
    } finally {
      this.running = null
      awake?.release().catch(() => {})
      byId('controls').inert = false
      session.report(null)
    }
  }

  /**
   * @param {File} file
   * @param {AbortSignal} signal
   * @param {(fraction: number, text: string) => void} show
   * @returns {Promise<VideoResult>}
   */
  async translate (file, signal, show) {
    const { session } = this
    const options = { ...this.size(), style: session.style, strength: session.strength }
    const started = performance.now()
    const onProgress = (/** @type {import('../lib/video.js').Progress} */ { frames, fraction, secondsLeft }) => {
      const left = secondsLeft === null ? '' : ` · about ${timeText(secondsLeft)} left`
      show(fraction, `${Math.floor(100 * fraction)} % · frame ${frames}${left}`)
      session.report({ fps: 1000 * frames / (performance.now() - started), width: options.width, height: options.height, text: `${Math.floor(100 * fraction)} %` })
    }
    const onFrame = (/** @type {any} */ before, /** @type {ImageData} */ after) => this.showPair(before, after)
    const model = /** @type {any} */ (session.model)
    if (model.translateVideo) return model.translateVideo(file, { ...options, target: session.target, signal, onProgress, onFrame })
    const translate = (/** @type {any} */ image) => session.translate(image, options)
    await session.startClip()
    if (!hasWebCodecs()) {
      const { recordVideo } = await import('./video-recorder.js')
      return recordVideo(file, translate, { signal, onProgress, onFrame })
    }
    return translateVideo(file, translate, { signal, onProgress, onFrame })
  }

  cancelled () {
    if (this.stopped.signal.aborted) return
    this.ready()
    this.preview().catch(() => {})
    notify('Cancelled; nothing was kept.')
  }

  /**
   * @param {File} file
   * @param {VideoResult} result
   * @param {string} target
   */
  done (file, result, target) {
    if (this.stopped.signal.aborted) return void result.discard()
    this.result = result
    this.saved = false
    const name = resultName(file.name, target, result.extension)
    const save = button({ icon: 'download', text: 'Download', class: 'primary', id: 'download', onclick: () => this.save(name) })
    this.again = button({ icon: 'play', text: 'Translate again', onclick: () => this.run() })
    const other = button({ icon: 'upload', text: 'Another video', onclick: () => this.files?.choose() })
    const facts = [`${result.width} × ${result.height}`, `${result.frames} frames`, result.description, sizeText(result.blob.size)]
    if (!this.facts?.frame && result.width) this.compare.resize(result.width, result.height)
    this.player = createPlayer(this.compare, file, result.blob)
    const about = el('p', { class: 'facts', id: 'result-facts' }, el('b', {}, name), ` · ${facts.join(' · ')}`)
    const notes = result.notes.length ? el('p', { class: 'facts', id: 'result-notes' }, result.notes.join(' ')) : null
    this.layout(el('div', { class: 'player' }, ...this.player.controls), save, this.again, other, about, notes)
    save.focus({ preventScroll: true })
  }

  /** @param {string} name */
  save (name) {
    if (!this.result) return
    download(this.result.blob, name)
    this.saved = true
  }

  /** @param {string} key */
  key (key) {
    if (this.player && key === ' ') {
      this.player.toggle()
      return true
    }
    // Other options than those it was started with would change the video halfway.
    return Boolean(this.running) && ['d', 's', 'r'].includes(key)
  }

  /** Lets go of the result. */
  async forget () {
    this.player?.close()
    this.player = null
    this.compare.split = true
    const { result } = this
    this.result = null
    await result?.discard()
  }

  async clear () {
    await this.forget()
    this.facts?.frame?.close()
    this.facts = null
    this.file = null
    this.pace = 0
  }

  /** Another tab is shown: a result stays, and what is under way ends. */
  unmount () {
    this.files?.close()
    this.body.remove()
    if (this.result) {
      this.player?.pause()
      kept = this
      return
    }
    this.stopped.abort()
    clearTimeout(this.settling)
    this.running?.abort()
    this.order++
    this.clear()
  }
}

/** @param {HTMLCanvasElement} canvas */
function context (canvas) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'))
}

/** A phone would sleep before the video is done. */
async function keepAwake () {
  return navigator.wakeLock?.request('screen').catch(() => null) ?? null
}

/** @param {string} text */
function sentence (text) {
  return /[.!?]$/.test(text) ? text : `${text}.`
}
