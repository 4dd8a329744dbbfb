// The last way to translate a video, for browsers without WebCodecs: frames from a <video> element that is moved from one
// frame to the next, encoded by MediaRecorder. It records in real time; the times of the frames are put right afterwards.

import { asVideoError, VideoError } from '../lib/video-error.js'
import { codecName, loadMediabunny, openVideo } from '../lib/video-read.js'
import { planSound, SoundFeed } from '../lib/video-sound.js'
import { el } from './dom.js'
import { FrameRecorder, recordingType, sleep } from './frame-recorder.js'

/** @typedef {import('../lib/video-read.js').VideoFile} VideoFile */
/** @typedef {{timestamp: number, duration: number}} Time */

const ADVICE = 'Use a current version of Chrome, Edge, Firefox or Safari, or convert the video to MP4 (H.264) first'
const PATIENCE = 15_000
// Milliseconds until the frame of a place that was sought counts as shown; a page that is hidden does not tell.
const UNTOLD = 1000

/**
 * As `inspectVideo`.
 * @param {File} file
 */
export async function inspectByElement (file) {
  const video = await openVideo(file, { decode: false })
  const player = await openPlayer(file)
  try {
    const frame = await player.picture()
    const sound = await Promise.all(video.sound.map(async track => codecName(await track.getCodec())))
    const { duration, frameRate, codec } = video
    const [width, height] = [player.element.videoWidth, player.element.videoHeight]
    return { width, height, duration, frameRate, codec, sound, frame }
  } finally {
    player.close()
    video.close()
  }
}

/**
 * As `translateVideo`.
 * @param {File} file
 * @param {import('../lib/video.js').TranslateFrame} translate
 * @param {import('../lib/video.js').VideoOptions} options
 * @returns {Promise<import('../lib/video.js').VideoResult>}
 */
export async function recordVideo (file, translate, options) {
  const type = recordingType()
  if (!type) throw new VideoError('This browser cannot write videos', ADVICE)
  const video = await openVideo(file, { decode: false })
  const player = await openPlayer(file)
  try {
    const times = await readTimes(video)
    const recording = await record(player, times, type, video, translate, options)
    return await remux(recording, times, video)
  } catch (error) {
    throw asVideoError(error, `${file.name} was not translated to its end`, ADVICE)
  } finally {
    player.close()
    video.close()
  }
}

/**
 * When each frame is shown, in order.
 * @param {VideoFile} video
 */
async function readTimes (video) {
  const { EncodedPacketSink } = await loadMediabunny()
  const times = /** @type {Time[]} */ ([])
  for await (const { timestamp, duration } of new EncodedPacketSink(video.track).packets(undefined, undefined, { metadataOnly: true })) {
    times.push({ timestamp, duration })
  }
  times.sort((one, other) => one.timestamp - other.timestamp)
  times.forEach((time, at) => { if (!(time.duration > 0)) time.duration = at + 1 < times.length ? times[at + 1].timestamp - time.timestamp : 1 / video.frameRate })
  return times
}

/**
 * A <video> element that is moved to single frames.
 * @param {File} file
 */
async function openPlayer (file) {
  const url = URL.createObjectURL(file)
  const element = el('video', { muted: true, playsInline: true, preload: 'auto', src: url })
  const close = () => {
    element.removeAttribute('src')
    element.load()
    URL.revokeObjectURL(url)
  }
  try {
    await event(element, 'loadeddata')
  } catch (error) {
    close()
    throw new VideoError(`This browser cannot play ${file.name}`, ADVICE, error)
  }
  return {
    element,
    close,
    /** @param {number} seconds */
    async seek (seconds) {
      if (Math.abs(element.currentTime - seconds) < 1e-6) return
      const shown = new Promise(resolve => element.requestVideoFrameCallback?.(resolve))
      element.currentTime = seconds
      await event(element, 'seeked')
      // On a busy machine the frame before is still there.
      await Promise.race([shown, sleep(document.hidden ? UNTOLD / 10 : UNTOLD)])
    },
    /** The frame that is shown. On a busy machine an element that has its data may still have no picture. */
    async picture () {
      for (const end = performance.now() + PATIENCE; ; await sleep(20)) {
        try {
          return await createImageBitmap(element)
        } catch (error) {
          if (performance.now() > end) throw error
        }
      }
    }
  }
}

/**
 * @param {HTMLVideoElement} element
 * @param {string} name of the event to wait for
 */
function event (element, name) {
  return new Promise((resolve, reject) => {
    const late = setTimeout(() => reject(new Error('the browser does not answer')), PATIENCE)
    const settle = (/** @type {() => void} */ how) => () => {
      clearTimeout(late)
      how()
    }
    element.addEventListener(name, settle(() => resolve(undefined)), { once: true })
    element.addEventListener('error', settle(() => reject(new Error(element.error?.message || 'it cannot be decoded'))), { once: true })
  })
}

/**
 * The translated frames, each for as long as the original.
 * @param {Awaited<ReturnType<typeof openPlayer>>} player
 * @param {Time[]} times
 * @param {string} type
 * @param {VideoFile} video
 * @param {import('../lib/video.js').TranslateFrame} translate
 * @param {import('../lib/video.js').VideoOptions} options
 */
async function record ({ element, seek }, times, type, video, translate, { signal, onProgress, onFrame }) {
  const [width, height] = [element.videoWidth, element.videoHeight]
  const before = new OffscreenCanvas(width, height)
  const started = performance.now()
  /** @type {FrameRecorder | null} */
  let recorder = null
  try {
    for (const [index, time] of times.entries()) {
      signal?.throwIfAborted()
      await seek(Math.max(0, time.timestamp - Math.min(0, video.start) + time.duration / 2))
      before.getContext('2d')?.drawImage(element, 0, 0, width, height)
      const after = await translate(before, index)
      signal?.throwIfAborted()
      onFrame?.(before, after)
      recorder ??= new FrameRecorder(after, type, video.frameRate)
      await recorder.add(after, 1000 * time.duration)
      const fraction = (index + 1) / times.length
      const seconds = (performance.now() - started) / 1000
      onProgress?.({ frames: index + 1, fraction, secondsLeft: seconds > 1 ? seconds * (1 - fraction) / fraction : null })
    }
    if (!recorder) throw new VideoError(`${video.name} holds no frames`, ADVICE)
    return { blob: await recorder.finish(), width: recorder.canvas.width, height: recorder.canvas.height }
  } finally {
    recorder?.close()
  }
}

/**
 * The recording with the original's times and sound.
 * @param {{blob: Blob, width: number, height: number}} recording
 * @param {Time[]} times
 * @param {VideoFile} video
 * @returns {Promise<import('../lib/video.js').VideoResult>}
 */
async function remux ({ blob, width, height }, times, video) {
  const mediabunny = await loadMediabunny()
  const input = new mediabunny.Input({ source: new mediabunny.BlobSource(blob), formats: [mediabunny.MP4, mediabunny.WEBM, mediabunny.MATROSKA] })
  try {
    const track = await input.getPrimaryVideoTrack()
    const codec = await track?.getCodec()
    if (!track || !codec) throw new VideoError('The recording holds no video', ADVICE)
    const isMp4 = codec === 'avc' || blob.type.startsWith('video/mp4')
    const container = isMp4 ? 'mp4' : 'webm'
    const target = new mediabunny.BufferTarget()
    const output = new mediabunny.Output({ format: isMp4 ? new mediabunny.Mp4OutputFormat({ fastStart: 'in-memory' }) : new mediabunny.WebMOutputFormat(), target })
    const source = new mediabunny.EncodedVideoPacketSource(codec)
    output.addVideoTrack(source, isMp4 && video.timeResolution <= 1e6 ? { frameRate: video.timeResolution } : {})
    const sound = await planSound(video.sound, container)
    for (const { source } of sound) if (source) output.addAudioTrack(source)
    await output.start()
    const frames = await copyFrames(track, source, times, new SoundFeed(sound))
    await output.finalize()
    const notes = [...new Set(sound.map(track => track.note).filter(Boolean)), 'Recorded with MediaRecorder, since this browser has no WebCodecs.']
    if (frames !== times.length) notes.push(`The recorder kept ${frames} of ${times.length} frames, at times that are not exact.`)
    const kept = [...new Set(sound.map(track => `sound ${track.way}`))]
    return {
      blob: new Blob([/** @type {ArrayBuffer} */ (target.buffer)], { type: `video/${container}` }),
      extension: container,
      description: `${isMp4 ? 'MP4' : 'WebM'} (${[codecName(codec), ...kept.length ? kept : ['no sound']].join(', ')})`,
      frames,
      width,
      height,
      notes,
      discard: async () => {}
    }
  } finally {
    input.dispose()
  }
}

/**
 * Copies the packets and returns how many there are. If each frame has one they get the original's times.
 * @param {import('mediabunny').InputVideoTrack} track
 * @param {import('mediabunny').EncodedVideoPacketSource} source
 * @param {Time[]} times
 * @param {SoundFeed} feed
 */
async function copyFrames (track, source, times, feed) {
  const { EncodedPacketSink } = await loadMediabunny()
  const { packetCount } = await track.computePacketStats()
  const exact = packetCount === times.length
  const meta = { decoderConfig: await track.getDecoderConfig() ?? undefined }
  const first = await track.getFirstTimestamp()
  let index = 0
  for await (const packet of new EncodedPacketSink(track).packets()) {
    const time = exact ? times[index] : { timestamp: packet.timestamp - first + times[0].timestamp, duration: packet.duration }
    await feed.until(time.timestamp)
    await source.add(packet.clone(time), meta)
    index++
  }
  source.close()
  await feed.until(Infinity)
  return index
}
