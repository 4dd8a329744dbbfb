// Live translation in the page: always the newest frame, one at a time, and no queue.

import { Meter } from './meter.js'

/** @typedef {import('./session.js').Session} Session */
/**
 * Where a camera mode shows its frames.
 * @typedef {{compare: ReturnType<typeof import('./compare.js').createCompare>, mirrored: boolean}} Screen
 */
/** @typedef {{stop: () => void}} Run */

const REPORT_MS = 500
const MOST_DELAY_MS = 60_000

/**
 * Translates what `video` plays until `stop`. While a frame is translated newer ones come and go; when it is done, the
 * newest is next. While the page is hidden nothing is translated.
 * @param {HTMLVideoElement} video
 * @param {Session} session
 * @param {Screen} screen
 * @param {(error: Error) => void} failed called once, and the run has then stopped
 * @returns {Run}
 */
export function runLocal (video, session, screen, failed) {
  const canvas = document.createElement('canvas')
  const meter = new Meter()
  /** @type {number | null} when the newest frame that waits was captured */
  let waiting = null
  let busy = false
  let running = true
  let callback = 0

  const onFrame = (/** @type {number} */ now, /** @type {VideoFrameCallbackMetadata} */ metadata) => {
    if (!running) return
    callback = video.requestVideoFrameCallback(onFrame)
    waiting = metadata.captureTime ?? now
    if (!busy) step()
  }
  const step = async () => {
    busy = true
    try {
      while (running && waiting !== null && !document.hidden) {
        const captured = waiting
        waiting = null
        await translate(captured)
      }
    } catch (error) {
      if (running) {
        stop()
        failed(/** @type {Error} */ (error))
      }
    } finally {
      busy = false
    }
  }
  const translate = async (/** @type {number} */ captured) => {
    const size = session.fit(video.videoWidth, video.videoHeight, 'live')
    draw(canvas, video, size, screen.mirrored)
    const result = await session.translate(canvas)
    if (!running) return
    const { compare } = screen
    compare.resize(size.width, size.height)
    compare.before.getContext('2d')?.drawImage(canvas, 0, 0)
    compare.after.getContext('2d')?.putImageData(result, 0, 0)
    compare.root.dataset.frames = String(meter.count + 1)
    meter.tick(Math.min(MOST_DELAY_MS, Math.max(0, performance.now() - captured)))
  }
  const report = () =>
    session.report({ fps: meter.fps, delay: meter.delay, width: canvas.width, height: canvas.height })
  const onVisibility = () => {
    meter.reset()
    if (!document.hidden) video.play().catch(() => {}) // some systems stop it
  }
  const stop = () => {
    running = false
    clearInterval(timer)
    video.cancelVideoFrameCallback(callback)
    document.removeEventListener('visibilitychange', onVisibility)
    canvas.width = canvas.height = 0
    session.report(null)
  }

  const timer = setInterval(() => {
    if (!document.hidden && meter.count) report()
  }, REPORT_MS)
  document.addEventListener('visibilitychange', onVisibility)
  session.startClip().catch(() => {}) // what is wrong with the translator its first translation says too
  callback = video.requestVideoFrameCallback(onFrame)
  return { stop }
}

/**
 * Draws the video's current frame on a canvas of that size.
 * @param {HTMLCanvasElement} canvas
 * @param {HTMLVideoElement} video
 * @param {{width: number, height: number}} size
 * @param {boolean} mirrored
 */
export function draw (canvas, video, { width, height }, mirrored) {
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height })
  const context = canvas.getContext('2d')
  if (!context) throw new Error('This browser gives the page no canvas.')
  context.imageSmoothingQuality = 'medium'
  context.setTransform(mirrored ? -1 : 1, 0, 0, 1, mirrored ? width : 0, 0)
  context.drawImage(video, 0, 0, width, height)
  context.setTransform(1, 0, 0, 1, 0, 0)
}
