// Translates a video file in the browser: every frame once, with its timestamp and its sound, to an MP4 or WebM file.
//
//     const result = await translateVideo(file, frame => translator.translate(frame), { onProgress, signal })
//     link.href = URL.createObjectURL(result.blob)
//
// Only a few frames are in memory at a time. The result grows in a file of the browser's own where there is one.

import { asVideoError, VideoError } from './video-error.js'
import { codecName, loadMediabunny, openVideo, readFrames, UprightFrames } from './video-read.js'
import { planSound, SoundFeed } from './video-sound.js'
import { createStore } from './video-store.js'
import { chooseEncoding, FrameWriter } from './video-write.js'

/** @typedef {import('./video-read.js').VideoFile} VideoFile */

/**
 * @callback TranslateFrame
 * @param {VideoFrame | OffscreenCanvas} image upright; it is closed or drawn over afterwards
 * @param {number} index from 0
 * @returns {Promise<ImageData>} of the same size for every frame
 */
/**
 * @typedef {object} Progress
 * @property {number} frames written so far
 * @property {number} fraction between 0 and 1
 * @property {number | null} secondsLeft null until it can be told
 */
/**
 * @typedef {object} VideoOptions
 * @property {AbortSignal} [signal]
 * @property {(progress: Progress) => void} [onProgress]
 * @property {(before: VideoFrame | OffscreenCanvas, after: ImageData) => void} [onFrame] called with each pair; neither is to be kept
 * @property {(note: string) => void} [onNote] called with sentences on what is done to the sound and the colours
 */
/**
 * @typedef {object} VideoResult
 * @property {Blob} blob
 * @property {'mp4' | 'webm'} extension
 * @property {string} description such as "MP4 (H.264, sound copied)"
 * @property {number} frames
 * @property {number} width
 * @property {number} height
 * @property {string[]} notes
 * @property {() => Promise<void>} discard frees the place that the result takes; the blob cannot be read afterwards
 */

// A video of which less than this share was found is reported.
const SHORT = 0.9
const OTHER = 'Try again, or choose another video'

/** Whether the browser has what `translateVideo` needs. */
export const hasWebCodecs = () => 'VideoDecoder' in globalThis && 'VideoEncoder' in globalThis

/**
 * What a video is, and its first frame, upright. Close that when done.
 * @param {File} file
 * @param {{decode?: boolean}} [options] `decode: false`: of a video that the browser cannot decode the frame is null
 * @throws {VideoError} with advice
 */
export async function inspectVideo (file, { decode = true } = {}) {
  const video = await openVideo(file, { decode })
  try {
    const { width, height, duration, frameRate, codec, track } = video
    const sound = await Promise.all(video.sound.map(async track => codecName(await track.getCodec())))
    const frame = decode || await track.canDecode() ? await firstFrame(video) : null
    return { width, height, duration, frameRate, codec, sound, frame }
  } catch (error) {
    throw asVideoError(error, `${file.name} cannot be decoded`, OTHER)
  } finally {
    video.close()
  }
}

/** @param {VideoFile} video */
async function firstFrame (video) {
  const upright = new UprightFrames(video)
  for await (const sample of readFrames(video)) {
    const image = upright.draw(sample)
    sample.close()
    const frame = await createImageBitmap(image)
    upright.release(image)
    return frame
  }
  throw new VideoError(`No frame of ${video.name} could be decoded`, OTHER)
}

/**
 * @param {File} file
 * @param {TranslateFrame} translate
 * @param {VideoOptions} [options]
 * @returns {Promise<VideoResult>}
 * @throws {VideoError} with advice; a DOMException AbortError after `signal`
 */
export async function translateVideo (file, translate, options = {}) {
  options.signal?.throwIfAborted()
  const video = await openVideo(file)
  const store = await createStore()
  try {
    return await run(video, store, translate, options)
  } catch (error) {
    await store.discard()
    throw asVideoError(full(error), `${file.name} was not translated to its end`, OTHER)
  } finally {
    video.close()
  }
}

/**
 * @param {VideoFile} video
 * @param {import('./video-store.js').Store} store
 * @param {TranslateFrame} translate
 * @param {VideoOptions} options
 * @returns {Promise<VideoResult>}
 */
async function run (video, store, translate, options) {
  const notes = /** @type {string[]} */ ([])
  const note = (/** @type {string} */ text) => {
    if (text && !notes.includes(text)) notes.push(text)
    if (text) options.onNote?.(text)
  }
  if (video.highDynamicRange) note('The video is HDR; the result is not (BT.709).')
  /** @type {Sink | null} */
  let sink = null
  try {
    let end = 0
    for await (const [image, time] of translated(video, translate, options)) {
      sink ??= await Sink.open(video, image, store, note)
      await sink.write(image, time)
      end = time.timestamp + time.duration - video.start
    }
    if (end < SHORT * video.duration) note(`The file says ${video.duration.toFixed(1)} s, but its frames end after ${end.toFixed(1)} s: it may be cut off or damaged.`)
    if (!sink) throw new VideoError(`No frame of ${video.name} could be decoded`, OTHER)
    await sink.finish()
  } catch (error) {
    await sink?.cancel()
    throw error
  }
  const { extension, type, description, width, height, frames } = sink
  return { blob: await store.finish(type), extension, description, frames, width, height, notes, discard: store.discard }
}

/**
 * Each frame's translation with its time.
 * @param {VideoFile} video
 * @param {TranslateFrame} translate
 * @param {VideoOptions} options
 * @returns {AsyncGenerator<[ImageData, {timestamp: number, duration: number}]>}
 */
async function * translated (video, translate, { signal, onProgress, onFrame }) {
  const upright = new UprightFrames(video)
  const clock = new TimeLeft()
  let index = 0
  for await (const sample of readFrames(video)) {
    const { timestamp, duration } = sample
    const image = upright.draw(sample)
    sample.close()
    try {
      signal?.throwIfAborted()
      const result = await translate(image, index++)
      signal?.throwIfAborted()
      onFrame?.(image, result)
      yield [result, { timestamp, duration }]
    } finally {
      upright.release(image)
    }
    const fraction = video.duration > 0 ? Math.min(1, (timestamp + duration - video.start) / video.duration) : 0
    onProgress?.({ frames: index, fraction, secondsLeft: clock.at(fraction) })
  }
}

/** The file that is being written: one video track and the sound. */
class Sink {
  /**
   * @param {VideoFile} video
   * @param {ImageData} first
   * @param {import('./video-store.js').Store} store
   * @param {(note: string) => void} note
   */
  static async open (video, first, store, note) {
    const mediabunny = await loadMediabunny()
    const { width, height } = first
    const encoding = await chooseEncoding({ width, height, frameRate: video.frameRate })
    const isMp4 = encoding.container === 'mp4'
    const format = isMp4 ? new mediabunny.Mp4OutputFormat({ fastStart: store.kind === 'memory' ? 'in-memory' : false }) : new mediabunny.WebMOutputFormat()
    const output = new mediabunny.Output({ format, target: store.target })
    const source = new mediabunny.EncodedVideoPacketSource(encoding.codec)
    // The muxer rounds times to multiples of 1 / frameRate: those of the input stay as they are.
    output.addVideoTrack(source, isMp4 && video.timeResolution <= 1e6 ? { frameRate: video.timeResolution } : {})
    const sound = await planSound(video.sound, encoding.container)
    for (const { source, language } of sound) if (source) output.addAudioTrack(source, /^[a-z]{3}$/.test(language) ? { languageCode: language } : {})
    sound.forEach(track => note(track.note))
    await output.start()
    return new Sink(first, encoding, output, source, sound, new FrameWriter(encoding, source, mediabunny))
  }

  /**
   * @param {ImageData} first
   * @param {import('./video-write.js').Encoding} encoding
   * @param {import('mediabunny').Output} output
   * @param {import('mediabunny').EncodedVideoPacketSource} source
   * @param {import('./video-sound.js').SoundTrack[]} sound
   * @param {FrameWriter} writer
   */
  constructor ({ width, height }, { container, name }, output, source, sound, writer) {
    this.width = width
    this.height = height
    this.extension = container
    this.type = `video/${container}`
    const kept = [...new Set(sound.map(track => `sound ${track.way}`))]
    this.description = `${container === 'mp4' ? 'MP4' : 'WebM'} (${[name, ...kept.length ? kept : ['no sound']].join(', ')})`
    this.output = output
    this.source = source
    this.feed = new SoundFeed(sound)
    this.writer = writer
    this.frames = 0
  }

  /**
   * @param {ImageData} image
   * @param {{timestamp: number, duration: number}} time
   */
  async write (image, time) {
    if (image.width !== this.width || image.height !== this.height) {
      throw new VideoError(`A frame came back as ${image.width} x ${image.height} pixels, expected ${this.width} x ${this.height}`, OTHER)
    }
    await this.feed.until(time.timestamp)
    await this.writer.write(image, time)
    this.frames++
  }

  async finish () {
    await this.writer.finish()
    if (this.writer.written !== this.frames) {
      throw new VideoError(`The browser's encoder dropped ${this.frames - this.writer.written} of ${this.frames} frames`, OTHER)
    }
    this.source.close()
    await this.feed.until(Infinity)
    await this.output.finalize()
  }

  async cancel () {
    this.writer.close()
    await this.feed.close()
    if (this.output.state === 'started') await this.output.cancel()
  }
}

/** Estimates the time left from the share done, once there is enough to tell. */
class TimeLeft {
  constructor () {
    this.start = performance.now()
  }

  /** @param {number} fraction */
  at (fraction) {
    const seconds = (performance.now() - this.start) / 1000
    return fraction > 0 && seconds > 1 ? seconds * (1 - fraction) / fraction : null
  }
}

/** @param {unknown} error of a full disk, in words */
function full (error) {
  if (!(error instanceof DOMException && error.name === 'QuotaExceededError')) return error
  return new VideoError('The browser has no room left for the result', 'Free some disk space, or choose a shorter video', error)
}
