// The camera mode: live translation of a camera, with a divider between before and after.

import { runLocal } from './camera-local.js'
import { runRemote } from './camera-remote.js'
import { hasFacing, listCameras, openCamera } from './camera-source.js'
import { createToolbar } from './camera-toolbar.js'
import { createCompare } from './compare.js'
import { download, el, fileName, icon } from './dom.js'
import { notify } from './notices.js'
import { Awake, isFull, toggleFullScreen } from './screen.js'

/** @typedef {import('./session.js').Session} Session */

/** Above this shorter side more than 1280x720 is asked of the camera. */
const LARGE = 720

/**
 * Puts the mode on the stage.
 * @param {HTMLElement} root
 * @param {Session} session
 */
export function mount (root, session) {
  const mode = new CameraMode(root, session)
  return { unmount: () => mode.unmount(), key: (/** @type {string} */ key) => mode.key(key) }
}

class CameraMode {
  mirrored = true
  /** @type {'off' | 'starting' | 'on'} */
  state = 'off'
  compare = createCompare()
  /** @type {'user' | 'environment'} */
  #facing = 'user'
  #video = el('video', { class: 'source', muted: true, playsInline: true, 'aria-hidden': 'true' })
  #hud = el('p', { class: 'hud', 'aria-hidden': 'true' })
  #view = el('div', { class: 'view' })
  /** @type {MediaStream | null} */
  #stream = null
  /** @type {import('./camera-local.js').Run | null} */
  #run = null
  #awake = new Awake()
  #problem = ''
  /** Rises with every start and stop: what began before is then out of date. */
  #order = 0
  #gone = new AbortController()

  /**
   * @param {HTMLElement} root
   * @param {Session} session
   */
  constructor (root, session) {
    this.root = root
    this.session = session
    this.toolbar = createToolbar({
      toggle: () => this.toggle(),
      restart: () => this.restart(),
      flip: () => this.flip(),
      mirror: () => this.mirror(!this.mirrored),
      split: () => this.toggleSplit(),
      snapshot: () => this.snapshot(),
      fullScreen: () => this.toggleFullScreen()
    })
    root.append(this.#video, this.#hud, this.#view, this.toolbar.root)
    this.#listen()
    this.#label()
    this.listDevices()
    this.show()
  }

  #listen () {
    const { signal } = this.#gone
    this.session.addEventListener('change', () => this.#label(), { signal })
    this.session.addEventListener('numbers', event => this.#showNumbers(/** @type {CustomEvent} */ (event).detail), {
      signal
    })
    navigator.mediaDevices?.addEventListener?.('devicechange', () => this.listDevices(), { signal })
    document.addEventListener('fullscreenchange', () => this.#showFull(), { signal })
  }

  unmount () {
    this.stop()
    this.#gone.abort()
    if (isFull(this.root)) toggleFullScreen(this.root)
    this.root.replaceChildren()
  }

  /** @param {string} key */
  key (key) {
    const actions = new Map([
      [' ', () => this.toggle()],
      ['m', () => this.mirror(!this.mirrored)],
      ['b', () => this.toggleSplit()],
      ['c', () => this.snapshot()],
      ['f', () => this.toggleFullScreen()]
    ])
    actions.get(key)?.()
    return actions.has(key)
  }

  toggle () {
    return this.state === 'off' ? this.start() : this.stop()
  }

  async start () {
    const order = ++this.#order
    this.#problem = ''
    this.#setState('starting')
    try {
      const stream = await openCamera(this.#wanted())
      if (order === this.#order) await this.#play(stream, order)
      else stopTracks(stream)
    } catch (error) {
      if (order === this.#order) this.#fail(/** @type {Error} */ (error))
    }
  }

  stop () {
    this.#order++
    this.#run?.stop()
    this.#run = null
    if (this.#stream) stopTracks(this.#stream)
    this.#stream = null
    this.#video.srcObject = null
    delete this.compare.root.dataset.frames
    this.#setState('off')
  }

  async restart () {
    if (this.state === 'off') return
    this.stop()
    await this.start()
  }

  /** What to ask of the system. */
  #wanted () {
    const { size } = this.session
    return {
      ...(hasFacing() ? { facing: this.#facing } : { device: this.toolbar.devices.value || undefined }),
      large: size !== 'auto' && (size === 0 || size > LARGE)
    }
  }

  /**
   * @param {MediaStream} stream
   * @param {number} order
   */
  async #play (stream, order) {
    const [track] = stream.getVideoTracks()
    this.#stream = stream
    track.addEventListener('ended', () => {
      if (this.#stream === stream) this.#fail(new Error('The camera has been disconnected.'))
    })
    track.addEventListener('mute', () => {
      if (this.#stream === stream && !document.hidden) notify('The camera sends no picture at the moment.')
    })
    this.#video.srcObject = stream
    await this.#video.play()
    if (order !== this.#order) return
    const failed = (/** @type {Error} */ error) => this.#fail(error)
    const run = this.session.remote
      ? await runRemote(this.#video, track, this.session, this, failed)
      : runLocal(this.#video, this.session, this, failed)
    if (order !== this.#order) return run.stop()
    this.#run = run
    this.#setState('on')
    this.listDevices()
  }

  /** @param {Error} error */
  #fail (error) {
    this.stop()
    this.#problem = error.message
    this.show()
  }

  /** @param {'off' | 'starting' | 'on'} state */
  #setState (state) {
    this.state = state
    this.#awake.set(state === 'on')
    this.show()
  }

  /** Shows the picture, or what is to be done to get one. */
  show () {
    const { start, snapshot } = this.toolbar
    const on = this.state === 'on'
    const text = { off: 'Start', starting: 'Cancel', on: 'Stop' }[this.state]
    start.replaceChildren(icon(this.state === 'off' ? 'play' : 'stop'), el('span', {}, text))
    start.classList.toggle('primary', this.state === 'off')
    snapshot.disabled = !on
    this.#view.replaceChildren(on ? this.compare.root : placeholder(this.state, this.#problem, this.session.remote))
    this.root.dataset.state = this.state
  }

  #label () {
    this.compare.label(this.session.source, this.session.target)
  }

  #showFull () {
    this.toolbar.fullScreen.setAttribute('aria-pressed', String(isFull(this.root)))
  }

  /**
   * The numbers in full screen, where the page's last line is not seen.
   * @param {import('./session.js').Numbers | null} numbers
   */
  #showNumbers (numbers) {
    const { fps, delay, width, height } = numbers ?? {}
    const parts = [
      fps && `${fps.toFixed(1)} fps`,
      delay && `${Math.round(delay)} ms`,
      width && `${width} × ${height}`,
      numbers && this.session.translator?.backend.name
    ]
    this.#hud.textContent = parts.filter(Boolean).join(' · ')
  }

  async listDevices () {
    const { devices, flip } = this.toolbar
    const cameras = await listCameras()
    const current = this.#stream?.getVideoTracks()[0]?.getSettings().deviceId ?? devices.value
    devices.replaceChildren(
      ...cameras.map((camera, at) => el('option', { value: camera.deviceId }, camera.label || `Camera ${at + 1}`))
    )
    if (cameras.some(camera => camera.deviceId === current)) devices.value = current
    devices.hidden = cameras.length < 2 || hasFacing()
    flip.hidden = !hasFacing()
  }

  /** The other camera of a phone; what looks at the user is mirrored. */
  flip () {
    this.#facing = this.#facing === 'user' ? 'environment' : 'user'
    this.mirror(this.#facing === 'user')
    return this.restart()
  }

  /** @param {boolean} on */
  mirror (on) {
    this.mirrored = on
    this.toolbar.mirror.setAttribute('aria-pressed', String(on))
  }

  toggleSplit () {
    this.compare.split = !this.compare.split
    this.toolbar.split.setAttribute('aria-pressed', String(this.compare.split))
  }

  async toggleFullScreen () {
    await toggleFullScreen(this.root)
    this.#showFull()
  }

  snapshot () {
    if (this.state !== 'on' || !this.compare.root.dataset.frames) return
    const { site, target } = this.session
    const time = new Date().toISOString().slice(0, 19).replace(/:/g, '-')
    this.compare.after.toBlob((blob) => {
      if (blob) download(blob, `${fileName(site.name)}-${fileName(target)}-${time}.png`)
    }, 'image/png')
  }
}

/**
 * What stands where the picture will be.
 * @param {'off' | 'starting' | 'on'} state
 * @param {string} problem
 * @param {boolean} remote
 */
function placeholder (state, problem, remote) {
  const title = (/** @type {string} */ text) => el('p', { class: 'empty-title' }, text)
  if (state === 'starting')
    return el(
      'div',
      { class: 'empty', role: 'status' },
      el('span', { class: 'spinner' }),
      title('Starting the camera…')
    )
  if (problem) {
    const text = el('p', { class: 'text', id: 'camera-problem' }, problem)
    return el('div', { class: 'empty', role: 'alert' }, icon('warning'), title(remote ? 'No live translation' : 'No picture from the camera'), text)
  }
  const where = remote ? 'by the server that this page came from' : 'on this device'
  const text = el('p', { class: 'text' }, `Press Start and allow the camera. Its frames are translated ${where}.`)
  return el('div', { class: 'empty' }, icon('camera'), title('Translate your camera, live'), text)
}

/** @param {MediaStream} stream */
function stopTracks (stream) {
  for (const track of stream.getTracks()) track.stop()
}
