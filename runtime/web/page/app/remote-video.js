// Translation of a video file by the server: upload, a job that is followed, download.

import { ask, inWords, ServerError } from './server-api.js'

/** @typedef {import('../lib/video.js').VideoResult} VideoResult */
/** @typedef {import('../lib/video.js').Progress} Progress */
/**
 * `width`, `height`: of the result, about. A width of 0: that of the video is not known; frames are then translated at
 * that height, or as they are for 0, and the result has the video's own size.
 * @typedef {object} RemoteVideoOptions
 * @property {string} target
 * @property {number} width
 * @property {number} height
 * @property {Float32Array | null} style
 * @property {number} strength
 * @property {AbortSignal} [signal]
 * @property {(progress: Progress) => void} [onProgress]
 */
/**
 * What the server tells of a job.
 * @typedef {{id: string, state: 'queued' | 'running' | 'done' | 'failed' | 'cancelled', frames: number,
 *   progress: number | null, notes: string[], error: {fact: string, advice: string} | null}} Job
 */

const UPLOAD = 0.1 // part of the progress bar
const DOWNLOAD = 0.05
const ATTEMPTS = 5
const PAUSE_MS = 1000

/**
 * Has the server translate a video, sound and all. Rejects with a `ServerError`; when aborted, the server deletes all.
 * @param {File} file
 * @param {RemoteVideoOptions} options
 * @returns {Promise<VideoResult>}
 */
export async function translateVideo (file, { target, width, height, style, strength, signal, onProgress = () => {} }) {
  const form = new FormData()
  form.set('domain', target)
  form.set('strength', String(strength))
  if (height) form.set('height', String(height))
  if (height && width) form.set('upscale', 'false')
  if (style?.length) form.set('style_code', Array.from(style).join(','))
  form.set('video', file)
  let job = await upload(form, signal, part => onProgress({ frames: 0, fraction: UPLOAD * part, secondsLeft: null }))
  try {
    const began = performance.now()
    job = await follow(job, signal, ({ frames, progress }) => {
      const left = progress ? (performance.now() - began) / 1000 * (1 - progress) / progress : null
      onProgress({ frames, fraction: UPLOAD + (1 - UPLOAD - DOWNLOAD) * (progress ?? 0), secondsLeft: left })
    })
    const blob = await download(`v1/jobs/${job.id}/result`, signal)
    onProgress({ frames: job.frames, fraction: 1, secondsLeft: 0 })
    const size = await sizeOf(blob) ?? { width, height }
    return { blob, extension: 'mp4', description: 'MP4, made by the server', frames: job.frames, ...size, notes: job.notes.map(sentence), discard: async () => {} }
  } finally {
    await ask(`v1/jobs/${job.id}`, { method: 'DELETE', keepalive: true }).catch(() => {}) // or the server does it later
  }
}

/**
 * The size of a video's frames; null if this browser does not play it.
 * @param {Blob} blob
 */
async function sizeOf (blob) {
  const src = URL.createObjectURL(blob)
  const video = Object.assign(document.createElement('video'), { preload: 'metadata', muted: true })
  await new Promise((resolve) => {
    video.onloadedmetadata = video.onerror = resolve
    setTimeout(resolve, 3000) // phones may load nothing before it is played
    video.src = src
  })
  const { videoWidth: width, videoHeight: height } = video
  video.removeAttribute('src')
  URL.revokeObjectURL(src)
  return width ? { width, height } : null
}

/**
 * @param {FormData} form
 * @param {AbortSignal | undefined} signal
 * @param {(part: number) => void} onPart
 * @returns {Promise<Job>}
 */
function upload (form, signal, onPart) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest() // fetch does not tell how much was sent
    request.open('POST', new URL('v1/videos', document.baseURI))
    request.responseType = 'json'
    request.upload.onprogress = ({ loaded, total }) => onPart(total ? loaded / total : 0)
    request.onload = () => {
      const { status, response } = request
      if (status === 202) resolve(response)
      else reject(new ServerError(response?.fact ? inWords(response) : `The server answered ${status}.`, status))
    }
    request.onerror = () => reject(new ServerError('The upload broke off. Check the network, and try again.'))
    request.onabort = () => reject(signal?.reason)
    signal?.addEventListener('abort', () => request.abort(), { once: true })
    if (signal?.aborted) return reject(signal.reason)
    request.send(form)
  })
}

/**
 * Until the job is done. Rejects with its error.
 * @param {Job} job
 * @param {AbortSignal | undefined} signal
 * @param {(job: Job) => void} onChange
 * @returns {Promise<Job>}
 */
function follow (job, signal, onChange) {
  return new Promise((resolve, reject) => {
    const events = new EventSource(new URL(`v1/jobs/${job.id}/events`, document.baseURI)) // it connects again by itself
    const end = (/** @type {() => void} */ act) => {
      events.close()
      act()
    }
    signal?.addEventListener('abort', () => end(() => reject(signal.reason)), { once: true })
    if (signal?.aborted) return end(() => reject(signal.reason))
    events.addEventListener('job', ({ data }) => {
      /** @type {Job} */
      const now = JSON.parse(data)
      onChange(now)
      if (now.state === 'done') end(() => resolve(now))
      else if (now.state === 'failed') end(() => reject(new ServerError(now.error ? inWords(now.error) : 'The translation has failed.')))
      else if (now.state === 'cancelled') end(() => reject(new ServerError('The server has cancelled the translation.')))
    })
    events.addEventListener('error', () => {
      if (events.readyState === EventSource.CLOSED) end(() => reject(new ServerError('The server no longer tells how far it is. Try again.')))
    })
  })
}

/**
 * The file at `path`. A download that breaks off goes on where it was.
 * @param {string} path
 * @param {AbortSignal | undefined} signal
 */
async function download (path, signal) {
  /** @type {Uint8Array<ArrayBuffer>[]} */
  const parts = []
  let size = 0
  let tag = ''
  for (let attempt = 1; ; attempt++) {
    try {
      const answer = await ask(path, { signal, headers: size ? { 'Range': `bytes=${size}-`, 'If-Range': tag } : {} })
      if (answer.status === 200) parts.length = size = 0 // from the beginning
      tag = answer.headers.get('ETag') ?? ''
      const type = answer.headers.get('Content-Type') ?? 'video/mp4'
      const reader = /** @type {ReadableStream<Uint8Array<ArrayBuffer>>} */ (answer.body).getReader()
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        parts.push(part.value)
        size += part.value.length
      }
      return new Blob(parts, { type })
    } catch (error) {
      if (signal?.aborted || attempt === ATTEMPTS || (error instanceof ServerError && error.status)) throw error
      await new Promise(resolve => setTimeout(resolve, PAUSE_MS * attempt))
    }
  }
}

/** @param {string} text */
function sentence (text) { return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.') }
