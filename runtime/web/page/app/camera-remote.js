// Live translation by a server: the camera's frames go there, and the results that come back are shown.

import { draw, runLocal } from './camera-local.js'
import { notify } from './notices.js'

/** @typedef {import('./session.js').Session} Session */

/**
 * Sends the track's frames and shows the results until `stop`. Rejects with an Error for people.
 * @param {HTMLVideoElement} video plays the camera
 * @param {MediaStreamTrack} track
 * @param {Session} session
 * @param {import('./camera-local.js').Screen} screen
 * @param {(error: Error) => void} failed called once, and the run has then stopped
 * @returns {Promise<import('./camera-local.js').Run>}
 */
export async function runRemote (video, track, session, screen, failed) {
  const options = () => ({
    target: session.target,
    style: session.style,
    strength: session.strength,
    size: sideOf(session, video)
  })
  const model = /** @type {import('./session.js').LiveModel} */ (/** @type {unknown} */ (session.model))
  const live = await model.openLive(track, options()).catch(error => {
    if (!error.blocked) throw error
    notify('Live video (UDP) does not get through to the server, so frames go one by one: slower, and with more delay.')
  })
  if (!live) return runLocal(video, session, screen, failed)
  const results = Object.assign(document.createElement('video'), {
    muted: true,
    playsInline: true,
    srcObject: live.stream
  })
  let callback = 0
  let frames = 0

  const onFrame = () => {
    callback = results.requestVideoFrameCallback(onFrame)
    const size = { width: results.videoWidth, height: results.videoHeight }
    if (!size.width) return
    screen.compare.resize(size.width, size.height)
    draw(screen.compare.before, video, size, screen.mirrored)
    draw(screen.compare.after, results, size, screen.mirrored)
    screen.compare.root.dataset.frames = String(++frames)
  }
  const onChange = () => live.set(options())
  const stop = () => {
    session.removeEventListener('change', onChange)
    results.cancelVideoFrameCallback(callback)
    results.srcObject = null
    live.close()
    session.report(null)
  }
  live.addEventListener('statistics', (/** @type {CustomEvent} */ { detail }) =>
    session.report({ fps: detail.fps, delay: detail.delay_ms, width: detail.width, height: detail.height }))
  live.addEventListener('problem', (/** @type {CustomEvent} */ { detail }) => notify(detail, 'error'))
  live.addEventListener('ended', (/** @type {CustomEvent} */ { detail }) => {
    stop()
    failed(new Error(detail))
  })
  session.addEventListener('change', onChange)
  callback = results.requestVideoFrameCallback(onFrame)
  // Not awaited: until there is a frame it stays open, and the session could not be stopped meanwhile.
  results.play().catch(() => undefined)
  return { stop }
}

/**
 * The shorter side that the server is to translate at.
 * @param {Session} session
 * @param {HTMLVideoElement} video
 */
function sideOf (session, video) {
  const { width, height } = session.fit(video.videoWidth, video.videoHeight, 'live')
  return Math.min(width, height)
}
