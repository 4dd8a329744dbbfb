// Live translation by the server: the camera's frames go there by WebRTC, and the results come back as a stream.

import { ask, inWords, ServerError } from './server-api.js'

/**
 * `style`: a code, or null for the domain's mean. `size`: the shorter side that frames are scaled down to; 0: as they are.
 * @typedef {{target: string, style: Float32Array | null, strength: number, size: number}} LiveOptions
 */
/**
 * What the server tells every second; times in milliseconds, without the network.
 * @typedef {{fps: number, delay_ms: number, translate_ms: number, received: number, translated: number, dropped: number,
 *   width: number, height: number, target: string, backend: string}} LiveStatistics
 */

const CONNECT_MS = 8_000 // the server waits a little longer
const DISCONNECTED_MS = 5_000
const MAX_BITRATE = 8_000_000
const LOST = 'The connection to the server is lost. Check the network, then start again.'
const BLOCKED = 'There is no connection to the server for live video. It goes by UDP, which a firewall or this network may block.'

/**
 * One session: `stream` has the results. Events: `statistics` (`detail` is a `LiveStatistics`), `problem` (`detail` is
 * a text for people; the session goes on), `ended` (`detail` is a text too; not after `close`).
 */
export class LiveSession extends EventTarget {
  /**
   * Begins a session. Rejects with a `ServerError` for people, whose `busy` says that all sessions are
   * taken, and `blocked` that there is no way for live video.
   * @param {MediaStreamTrack} track the camera's; it stays the caller's
   * @param {LiveOptions} options
   * @returns {Promise<LiveSession>}
   */
  static async open (track, options) {
    const session = new LiveSession(track, options)
    try {
      await session.#peer.setLocalDescription() // without addresses: the server answers whoever calls it
      const offer = { sdp: session.#peer.localDescription?.sdp, options: message(options) }
      const headers = { 'Content-Type': 'application/json' }
      const answer = await (await ask('v1/live', { method: 'POST', headers, body: JSON.stringify(offer) })).json()
      await session.#peer.setRemoteDescription({ type: 'answer', sdp: answer.sdp })
      await session.#connected()
      return session
    } catch (error) {
      session.close()
      throw error
    }
  }

  /**
   * @param {MediaStreamTrack} track
   * @param {LiveOptions} options
   */
  constructor (track, options) {
    super()
    this.stream = new MediaStream()
    this.#options = options
    this.#peer = new RTCPeerConnection({ bundlePolicy: 'max-bundle' })
    this.#peer.addTransceiver(track, { direction: 'sendrecv', sendEncodings: [{ maxBitrate: MAX_BITRATE }] })
    this.#channel = this.#peer.createDataChannel('dsmap')
    this.#channel.addEventListener('open', () => this.#send())
    this.#channel.addEventListener('message', event => this.#hear(event.data))
    this.#channel.addEventListener('close', () => this.#end('The server has ended the session.'))
    this.#peer.addEventListener('track', event => this.stream.addTrack(event.track))
    this.#peer.addEventListener('connectionstatechange', () => this.#follow())
    window.addEventListener('pagehide', this.#close)
  }

  #options
  #peer
  #channel
  #last = ''
  #closed = false
  #timer = 0
  /** Ends the wait for the connection. @type {((error: ServerError) => void) | null} */
  #refuse = null
  #close = () => this.close()

  /**
   * Changes how frames are translated, from the next one on.
   * @param {LiveOptions} options
   */
  set (options) {
    this.#options = options
    this.#send()
  }

  /** Ends the session, which frees the server's translator at once. */
  close () {
    this.#closed = true
    clearTimeout(this.#timer)
    window.removeEventListener('pagehide', this.#close)
    this.#channel.close()
    this.#peer.close()
    for (const track of this.stream.getTracks()) track.stop()
  }

  #send () {
    const text = JSON.stringify(message(this.#options))
    if (this.#channel.readyState !== 'open' || text === this.#last) return
    this.#channel.send(text)
    this.#last = text
  }

  /** @param {string} text */
  #hear (text) {
    const { type, ...detail } = JSON.parse(text)
    if (type === 'statistics') this.#emit('statistics', detail)
    else if (type === 'error' && detail.ended) this.#end(inWords(detail))
    else if (type === 'error') this.#emit('problem', inWords(detail))
  }

  #follow () {
    clearTimeout(this.#timer)
    if (this.#refuse) return // #connected follows it
    const state = this.#peer.connectionState
    if (state === 'failed' || state === 'closed') this.#end(LOST)
    else if (state === 'disconnected') this.#timer = window.setTimeout(() => this.#end(LOST), DISCONNECTED_MS)
  }

  /** Until the connection stands. Rejects with the server's reason if it ends the session before. */
  #connected () {
    /** @type {number | undefined} */
    let timer
    return new Promise((resolve, reject) => {
      this.#refuse = reject
      const blocked = () => reject(Object.assign(new ServerError(BLOCKED), { blocked: true }))
      timer = window.setTimeout(blocked, CONNECT_MS)
      const look = () => {
        const state = this.#peer.connectionState
        if (state === 'connected') resolve(undefined)
        else if (state === 'failed' || state === 'closed') blocked()
      }
      this.#peer.addEventListener('connectionstatechange', look)
      look()
    }).finally(() => {
      this.#refuse = null
      clearTimeout(timer)
    })
  }

  /** @param {string} reason */
  #end (reason) {
    if (this.#closed) return
    const refuse = this.#refuse
    this.close()
    if (refuse) refuse(new ServerError(reason))
    else this.#emit('ended', reason)
  }

  /**
   * @param {string} name
   * @param {unknown} detail
   */
  #emit (name, detail) { this.dispatchEvent(new CustomEvent(name, { detail })) }
}

/**
 * The options as the server takes them.
 * @param {LiveOptions} options
 */
function message ({ target, style, strength, size }) {
  return { target, style: style && Array.from(style), strength, size: size || null }
}
