// Reads a video file with mediabunny and WebCodecs: what is in it, and its frames in order, upright, with their timestamps.

import { asVideoError, VideoError } from './video-error.js'

/** @typedef {typeof import('mediabunny')} Mediabunny */

/** mediabunny, loaded when the first video is opened: most visits need none of its 700 kB. */
export const loadMediabunny = () => /** @type {Promise<Mediabunny>} */ (import('../runtime/mediabunny.min.mjs'))

const NAMES = /** @type {Record<string, string>} */ ({
  avc: 'H.264',
  hevc: 'H.265 (HEVC)',
  vp8: 'VP8',
  vp9: 'VP9',
  av1: 'AV1',
  prores: 'ProRes',
  aac: 'AAC',
  opus: 'Opus',
  mp3: 'MP3',
  vorbis: 'Vorbis',
  flac: 'FLAC',
  ac3: 'Dolby Digital (AC-3)',
  eac3: 'Dolby Digital Plus (E-AC-3)',
  dts: 'DTS'
})
// What containers call codecs that no browser decodes, by the beginning.
const UNKNOWN = /** @type {[RegExp, string][]} */ ([
  [/^(mp4v|V_MPEG4|FMP4|DIVX|XVID)/i, 'MPEG-4 Part 2, as in DivX and Xvid'],
  [/^(mp2v|m2v1|V_MPEG2|2$)/i, 'MPEG-2, as on DVDs'],
  [/^(mjp|jpeg|V_MJPEG)/i, 'Motion JPEG'],
  [/^(vc-1|wvc1|WMV)/i, 'Windows Media Video'],
  [/^(FFV1|V_FFV1)/i, 'FFV1']
])
const PLAYABLE = 'Choose an MP4, MOV, WebM, MKV or TS file that plays in this browser'
const CONVERT = 'Convert it first, for example: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p -c:a aac OUTPUT.mp4'
// Frames of these sizes and more are refused before they are decoded.
const MOST_PIXELS = 8192 * 8192

/**
 * A codec's usual name.
 * @param {string | null} codec
 */
export function codecName (codec) {
  if (!codec) return 'a codec that is not known here'
  return NAMES[codec] ?? (codec.startsWith('pcm') ? 'PCM' : codec)
}

/**
 * @typedef {object} VideoFile
 * @property {string} name of the file
 * @property {number} width of the upright frames, in square pixels
 * @property {number} height
 * @property {number} duration in seconds, from the first frame to the end of the last
 * @property {number} start timestamp of the first frame, in seconds
 * @property {number} frameRate average, frames per second
 * @property {number} timeResolution all timestamps are multiples of 1 / timeResolution seconds
 * @property {string} codec
 * @property {boolean} highDynamicRange
 * @property {VideoMatrixCoefficients} matrix from Y'CbCr to RGB, guessed where the file does not say
 * @property {boolean} tagged whether the file says
 * @property {import('mediabunny').InputVideoTrack} track
 * @property {import('mediabunny').InputAudioTrack[]} sound
 * @property {() => void} close
 */

/**
 * Opens a file and checks that the browser decodes its video. Close it when done.
 * @param {File} file
 * @param {{decode?: boolean}} [options] `decode: false` does not ask whether the video can be decoded
 * @returns {Promise<VideoFile>}
 * @throws {VideoError} not a video, broken, of a codec that the browser lacks, or where mediabunny cannot be loaded
 */
export async function openVideo (file, { decode = true } = {}) {
  const { BlobSource, Input, MATROSKA, MP4, MPEG_TS, QTFF, WEBM } = await loadMediabunny().catch((error) => {
    throw new VideoError('The part of this page that opens videos cannot be loaded', 'Check the network, then load the page again', error)
  })
  const input = new Input({ source: new BlobSource(file), formats: [MP4, QTFF, MATROSKA, WEBM, MPEG_TS] })
  try {
    if (file.size === 0) throw new VideoError(`${file.name} is empty`, PLAYABLE)
    const track = await input.getPrimaryVideoTrack()
    if (!track) throw new VideoError(`${file.name} holds no video`, PLAYABLE)
    if (decode) await checkDecodable(track, file.name)
    return await describe(input, track, file.name)
  } catch (error) {
    input.dispose()
    throw asVideoError(error, `${file.name} cannot be read as a video`, PLAYABLE)
  }
}

/**
 * @param {import('mediabunny').InputVideoTrack} track
 * @param {string} name
 */
async function checkDecodable (track, name) {
  const codec = await track.getCodec()
  if (!codec || !(await track.canDecode())) {
    const inner = await track.getInternalCodecId()
    const id = String(inner ?? '')
    const known = UNKNOWN.find(([pattern]) => pattern.test(id))?.[1]
    const what = codec ? codecName(codec) : known ?? (typeof inner === 'string' ? `the codec ${inner.trim()}` : codecName(null))
    throw new VideoError(`This browser cannot decode the video of ${name}: it is ${what}`, CONVERT)
  }
}

/**
 * @param {import('mediabunny').Input} input
 * @param {import('mediabunny').InputVideoTrack} track
 * @param {string} name
 * @returns {Promise<VideoFile>}
 */
async function describe (input, track, name) {
  const [width, height] = [await track.getDisplayWidth(), await track.getDisplayHeight()]
  if (!(width > 0 && height > 0 && width * height <= MOST_PIXELS)) {
    throw new VideoError(`The frames of ${name} are ${width} x ${height} pixels`, 'Scale the video down first')
  }
  const start = await track.getFirstTimestamp()
  const end = await track.getDurationFromMetadata() ?? await track.computeDuration()
  const { packetCount, averagePacketRate } = await track.computePacketStats(100)
  if (packetCount === 0) throw new VideoError(`${name} holds no frames`, PLAYABLE)
  return {
    name,
    width,
    height,
    start,
    duration: Math.max(0, end - start),
    frameRate: Number.isFinite(averagePacketRate) && averagePacketRate > 0 ? averagePacketRate : 25,
    timeResolution: await track.getTimeResolution(),
    codec: codecName(await track.getCodec()),
    highDynamicRange: await track.hasHighDynamicRange(),
    matrix: (await track.getColorSpace()).matrix ?? guessedMatrix(width, height),
    tagged: Boolean((await track.getColorSpace()).matrix),
    track,
    sound: await input.getAudioTracks(),
    close: () => input.dispose()
  }
}

/**
 * What an untagged video is taken for, as `dsmap video` does: BT.709 from 720 lines or 1280 columns up, BT.601 below.
 * @param {number} width
 * @param {number} height
 */
function guessedMatrix (width, height) {
  return height >= 720 || width >= 1280 ? 'bt709' : 'smpte170m'
}

/**
 * Every frame once, in the order of presentation. Only a few are decoded ahead. Close each before asking for the next.
 * @param {VideoFile} video
 */
export async function * readFrames (video) {
  const { VideoSample, VideoSampleSink } = await loadMediabunny()
  for await (const sample of new VideoSampleSink(video.track).samples()) {
    // Browsers take all untagged video for BT.709.
    const wrong = !video.tagged && sample.colorSpace.matrix !== video.matrix && sample.format !== null
    if (!wrong) yield sample
    else yield new VideoSample(await retagged(sample, video.matrix), { rotation: sample.rotation, flip: sample.flip, timestamp: sample.timestamp, duration: sample.duration })
  }
}

/**
 * The same pixels, to be converted with another matrix. Closes the sample.
 * @param {import('mediabunny').VideoSample} sample
 * @param {VideoMatrixCoefficients} matrix
 */
async function retagged (sample, matrix) {
  const { format, visibleRect: { width, height }, colorSpace: { fullRange }, microsecondTimestamp: timestamp } = sample
  const frame = sample.toVideoFrame()
  sample.close()
  const bytes = new Uint8Array(frame.allocationSize())
  const layout = await frame.copyTo(bytes)
  const { displayWidth, displayHeight } = frame
  frame.close()
  return new VideoFrame(bytes, {
    format: /** @type {VideoPixelFormat} */ (format),
    codedWidth: width,
    codedHeight: height,
    displayWidth,
    displayHeight,
    layout,
    timestamp,
    colorSpace: { primaries: 'bt709', transfer: 'bt709', matrix, fullRange }
  })
}

/**
 * Frames as images of one size, upright and with square pixels.
 *
 * `draw` returns the decoded frame itself where it is that already, else a canvas that is used again for the next frame.
 * Call `release` after use.
 */
export class UprightFrames {
  /** @param {VideoFile} video */
  constructor ({ width, height }) {
    this.width = width
    this.height = height
    /** @type {OffscreenCanvas | null} */
    this.canvas = null
  }

  /**
   * @param {import('mediabunny').VideoSample} sample
   * @returns {VideoFrame | OffscreenCanvas}
   */
  draw (sample) {
    const { width, height } = this
    const square = sample.squarePixelWidth === sample.visibleRect.width && sample.squarePixelHeight === sample.visibleRect.height
    if (sample.rotation === 0 && !sample.flip && square && sample.displayWidth === width && sample.displayHeight === height) {
      return sample.toVideoFrame()
    }
    this.canvas ??= new OffscreenCanvas(width, height)
    const context = /** @type {OffscreenCanvasRenderingContext2D} */ (this.canvas.getContext('2d'))
    context.fillRect(0, 0, width, height)
    sample.drawWithFit(context, { fit: 'contain' })
    return this.canvas
  }

  /** @param {VideoFrame | OffscreenCanvas} image */
  release (image) {
    if ('close' in image) image.close()
  }
}
