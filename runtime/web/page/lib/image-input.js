// What can be translated: its size, and a copy for the worker.

import { DsmapError, messageOf } from './errors.js'

/**
 * @typedef {ImageBitmap | ImageData | VideoFrame | HTMLCanvasElement | OffscreenCanvas | HTMLVideoElement
 *   | HTMLImageElement} Image
 */

/**
 * The size to translate an image at: its own, or that which is wanted; of one side the other follows.
 * @param {Image} image
 * @param {number} [width]
 * @param {number} [height]
 */
export function targetSize (image, width, height) {
  const [ownWidth, ownHeight] = sizeOfImage(image)
  if (!ownWidth || !ownHeight) throw new DsmapError('input', 'The image has no pixels yet.')
  const size = {
    width: width ?? (height ? Math.max(1, Math.round((ownWidth * height) / ownHeight)) : ownWidth),
    height: height ?? (width ? Math.max(1, Math.round((ownHeight * width) / ownWidth)) : ownHeight)
  }
  for (const side of [size.width, size.height]) {
    if (!Number.isInteger(side) || side < 1) throw new DsmapError('input', `The size is ${size.width}x${size.height}.`)
  }
  return size
}

/**
 * @param {Image} image
 * @returns {[number, number]}
 */
function sizeOfImage (image) {
  if ('displayWidth' in image) return [image.displayWidth, image.displayHeight]
  if ('videoWidth' in image) return [image.videoWidth, image.videoHeight]
  if ('naturalWidth' in image) return [image.naturalWidth, image.naturalHeight]
  return [image.width, image.height]
}

/**
 * A copy that a worker can be given.
 * @param {Image} image
 * @returns {Promise<ImageBitmap | ImageData | VideoFrame>}
 */
export async function transferable (image) {
  if (image instanceof ImageData) return image
  if (typeof VideoFrame !== 'undefined' && image instanceof VideoFrame) return image.clone()
  try {
    return await createImageBitmap(image)
  } catch (error) {
    throw new DsmapError('memory', `The image cannot be read: ${messageOf(error)} Choose a smaller or another one.`)
  }
}
