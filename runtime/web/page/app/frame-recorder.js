// MediaRecorder, one frame at a time: it runs while a frame is shown, and until that frame is seen to be in the recording.
// On a busy machine a frame reaches the recorder late, and one that is paused by then drops it without a word.

import { el } from './dom.js'

// Matroska before MP4: it is written frame by frame, so that each can be seen to arrive.
const H264 = ['avc1.640028', 'avc1.42E01E']
const TYPES = [
  ...H264.map(codec => `video/x-matroska;codecs=${codec}`), ...H264.map(codec => `video/mp4;codecs=${codec}`),
  'video/webm;codecs=vp9', 'video/webm;codecs=vp8', 'video/webm', 'video/mp4'
]
// Milliseconds: between two frames at least; added where no frame is seen to arrive; until a frame counts as lost.
const SHORTEST = 20
const UNSEEN = 40
const LOST = 5000
const TRIES = 3

/** What this browser can record, H.264 first; undefined if nothing. */
export function recordingType () {
  return globalThis.MediaRecorder && TYPES.find(type => MediaRecorder.isTypeSupported(type))
}

export class FrameRecorder {
  /**
   * @param {ImageData} first
   * @param {string} type
   * @param {number} frameRate
   */
  constructor ({ width, height }, type, frameRate) {
    this.canvas = el('canvas', { width, height })
    this.context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext('2d', { alpha: false }))
    this.stream = this.canvas.captureStream(0)
    this.track = /** @type {CanvasCaptureMediaStreamTrack} */ (this.stream.getVideoTracks()[0])
    const bits = Math.round(Math.max(2e6, 0.25 * width * height * Math.min(frameRate, 60)))
    this.recorder = new MediaRecorder(this.stream, { mimeType: type, videoBitsPerSecond: bits })
    /** @type {Blob[]} */
    this.parts = []
    this.type = type
    this.bytes = 0
    this.seen = 0
    // Some recorders give what they hold only by the second, or at their end.
    this.shows = true
    this.recorder.addEventListener('dataavailable', ({ data }) => {
      this.bytes += data.size
      if (data.size) this.parts.push(data)
    })
    this.stopped = new Promise((resolve, reject) => {
      this.recorder.addEventListener('stop', resolve)
      this.recorder.addEventListener('error', event => reject(/** @type {any} */ (event).error ?? new Error('the recorder failed')))
    })
    this.stopped.catch(() => {})
    this.started = false
  }

  async run () {
    if (this.started && this.recorder.state === 'inactive') {
      await this.stopped
      throw new Error('the recorder stopped early')
    }
    // Without an interval of its own: what it gives is then asked for, and belongs to the frame that is shown.
    if (this.started) this.recorder.resume()
    else this.recorder.start()
    this.started = true
  }

  /**
   * Returns once the frame is in the recording, as far as this browser shows that.
   * @param {ImageData} image
   * @param {number} milliseconds that it is shown, at least
   */
  async add (image, milliseconds) {
    await this.run()
    const before = this.bytes
    this.show(image)
    await sleep(Math.max(SHORTEST, milliseconds))
    for (let again = 1; this.shows && !await this.arrived(before); again++) {
      // The first frames tell whether it shows them at all: a header may look like one.
      if (this.seen < 2 || again === TRIES) this.shows = false
      else this.show(image)
    }
    if (this.shows) this.seen++
    else await sleep(UNSEEN)
    if (this.recorder.state !== 'recording') return
    this.recorder.requestData()
    this.recorder.pause()
  }

  /**
   * A canvas that was not drawn on gives no frame.
   * @param {ImageData} image
   */
  show (image) {
    this.context.putImageData(image, 0, 0)
    this.track.requestFrame()
  }

  /**
   * Whether the recording grows over so many bytes before a frame counts as lost.
   * @param {number} before
   */
  async arrived (before) {
    const end = performance.now() + LOST
    while (this.bytes === before && performance.now() < end && this.recorder.state === 'recording') {
      this.recorder.requestData()
      await sleep(5)
    }
    return this.bytes > before
  }

  async finish () {
    if (!this.shows) await sleep(LOST / 10)
    if (this.recorder.state !== 'inactive') this.recorder.stop()
    await this.stopped
    return new Blob(this.parts, { type: this.type })
  }

  close () {
    if (this.recorder.state !== 'inactive') this.recorder.stop()
    this.stream.getTracks().forEach(track => track.stop())
  }
}

/** @param {number} milliseconds */
export const sleep = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds))
