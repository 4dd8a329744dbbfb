/** Pixels: from images to frames for the graphs (uint8 RGB, padded) and back. */

/**
 * A frame: uint8 RGB, row by row.
 * @typedef {{ width: number, height: number, data: Uint8Array }} Frame
 */

/**
 * What can be drawn in a worker.
 * @typedef {ImageBitmap | VideoFrame | ImageData} WorkerImage
 */

/** @type {OffscreenCanvas | null} */
let canvas = null

/**
 * The pixels of an image, RGBA; transparent ones are laid on white.
 * @param {WorkerImage} image
 * @param {number} width
 * @param {number} height
 * @returns {Uint8ClampedArray}
 */
export function readPixels (image, width, height) {
  if (image instanceof ImageData && image.width === width && image.height === height && isOpaque(image.data)) {
    return image.data
  }
  const context = context2d(width, height)
  context.fillStyle = 'white'
  context.fillRect(0, 0, width, height)
  context.drawImage(image instanceof ImageData ? asCanvas(image) : image, 0, 0, width, height)
  return context.getImageData(0, 0, width, height).data
}

/**
 * The part of an image, centred, scaled; for style images.
 * @param {WorkerImage} image
 * @param {{ x: number, y: number, width: number, height: number }} part
 * @param {number} width
 * @param {number} height
 */
export function readPart (image, part, width, height) {
  const context = context2d(width, height)
  context.fillStyle = 'white'
  context.fillRect(0, 0, width, height)
  const source = image instanceof ImageData ? asCanvas(image) : image
  context.drawImage(source, part.x, part.y, part.width, part.height, 0, 0, width, height)
  return context.getImageData(0, 0, width, height).data
}

/**
 * The size of an image, in pixels.
 * @param {WorkerImage} image
 * @returns {[number, number]} width, height
 */
export function sizeOf (image) {
  return 'displayWidth' in image ? [image.displayWidth, image.displayHeight] : [image.width, image.height]
}

/**
 * RGBA -> a frame padded at the right and the bottom to a size that the graphs take: by reflection, or where that
 * needs more pixels than there are, by repeating the last one.
 * @param {Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} height
 * @param {{ multiple_of: number, minimum: number }} sizes
 * @returns {Frame}
 */
export function padFrame (rgba, width, height, sizes) {
  const fullWidth = paddedSide(width, sizes)
  const fullHeight = paddedSide(height, sizes)
  const reflect = fullWidth - width < width && fullHeight - height < height
  const columns = sources(width, fullWidth, reflect)
  const rows = sources(height, fullHeight, reflect)
  const data = new Uint8Array(fullWidth * fullHeight * 3)
  let to = 0
  for (let y = 0; y < fullHeight; y++) {
    const row = rows[y] * width
    for (let x = 0; x < fullWidth; x++, to += 3) {
      const from = (row + columns[x]) * 4
      data[to] = rgba[from]
      data[to + 1] = rgba[from + 1]
      data[to + 2] = rgba[from + 2]
    }
  }
  return { width: fullWidth, height: fullHeight, data }
}

/**
 * The top left part of a frame as RGBA.
 * @param {Frame} frame
 * @param {number} width
 * @param {number} height
 * @returns {Uint8ClampedArray<ArrayBuffer>}
 */
export function cropFrame (frame, width, height) {
  const rgba = new Uint8ClampedArray(width * height * 4)
  let to = 0
  for (let y = 0; y < height; y++) {
    let from = y * frame.width * 3
    for (let x = 0; x < width; x++, to += 4, from += 3) {
      rgba[to] = frame.data[from]
      rgba[to + 1] = frame.data[from + 1]
      rgba[to + 2] = frame.data[from + 2]
      rgba[to + 3] = 255
    }
  }
  return rgba
}

/**
 * `share` of one frame and the rest of the other, pixel by pixel.
 * @param {Frame} one
 * @param {Frame} other of the same size
 * @param {number} share
 * @returns {Frame}
 */
export function mixFrames (one, other, share) {
  const data = new Uint8ClampedArray(one.data.length) // rounds
  for (let i = 0; i < data.length; i++) data[i] = share * one.data[i] + (1 - share) * other.data[i]
  return { width: one.width, height: one.height, data: new Uint8Array(data.buffer) }
}

/**
 * PSNR in dB; Infinity for equal arrays.
 * @param {Uint8Array} got
 * @param {Uint8Array} expected of the same length
 */
export function psnr (got, expected) {
  let sum = 0
  for (let i = 0; i < expected.length; i++) sum += (got[i] - expected[i]) ** 2
  return sum === 0 ? Infinity : 10 * Math.log10((255 * 255 * expected.length) / sum)
}

/**
 * @param {number} side
 * @param {{ multiple_of: number, minimum: number }} sizes
 */
export function paddedSide (side, sizes) {
  return Math.max(sizes.minimum, Math.ceil(side / sizes.multiple_of) * sizes.multiple_of)
}

/**
 * Which pixel of `side` each one of `full` is taken from.
 * @param {number} side
 * @param {number} full
 * @param {boolean} reflect
 */
function sources (side, full, reflect) {
  return Uint32Array.from({ length: full }, (_, i) => (i < side ? i : reflect ? 2 * side - 2 - i : side - 1))
}

/** @param {Uint8ClampedArray} rgba */
function isOpaque (rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] !== 255) return false
  return true
}

/**
 * @param {number} width
 * @param {number} height
 */
function context2d (width, height) {
  canvas ??= new OffscreenCanvas(width, height)
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height]
  const context = canvas.getContext('2d', { willReadFrequently: true, alpha: false })
  if (!context) throw new Error('no canvas of that size')
  context.imageSmoothingQuality = 'high'
  return context
}

/** @param {ImageData} image */
function asCanvas (image) {
  const own = new OffscreenCanvas(image.width, image.height)
  own.getContext('2d')?.putImageData(image, 0, 0)
  return own
}
