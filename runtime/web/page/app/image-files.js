// Decoding and encoding of still images.

// Decoded images take four bytes a pixel, several times over.
const MOST_PIXELS = 64e6
const KINDS = /** @type {[RegExp, string][]} */ ([
  [/\.(heic|heif)$|image\/hei[cf]/i, 'HEIC'],
  [/\.tiff?$|image\/tiff/i, 'TIFF'],
  [/\.(cr2|cr3|nef|arw|dng|raf|orf|rw2)$/i, 'a raw photo']
])

/**
 * An image as it is meant to be seen: turned as its Exif data says, in sRGB, on white where it is transparent.
 * @param {File} file
 * @returns {Promise<ImageBitmap>}
 * @throws {Error} with a sentence for the user
 */
export async function decodeImage (file) {
  if (file.size === 0) throw new Error('The file is empty.')
  let bitmap
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: 'from-image', colorSpaceConversion: 'default' })
  } catch {
    const kind = KINDS.find(([pattern]) => pattern.test(file.name) || pattern.test(file.type))?.[1]
    if (kind) throw new Error(`This browser cannot decode ${kind}. Save it as JPEG or PNG first.`)
    throw new Error(file.type.startsWith('image/') ? 'The image is damaged, or of a kind that this browser cannot decode.' : 'This is not an image that this browser can decode.')
  }
  const { width, height } = bitmap
  if (width * height > MOST_PIXELS) {
    bitmap.close()
    throw new Error(`The image has ${Math.round(width * height / 1e6)} megapixels; ${MOST_PIXELS / 1e6} is the most here. Scale it down first.`)
  }
  const onWhite = flattened(bitmap)
  bitmap.close()
  return onWhite
}

/**
 * The image on white where it is transparent.
 * @param {ImageBitmap} bitmap
 */
function flattened (bitmap) {
  const { width, height } = bitmap
  const canvas = new OffscreenCanvas(width, height)
  const context = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext('2d', { alpha: false }))
  context.fillStyle = '#fff'
  context.fillRect(0, 0, width, height)
  context.drawImage(bitmap, 0, 0)
  return canvas.transferToImageBitmap()
}

/**
 * @param {ImageData} image
 * @returns {Promise<Blob>}
 */
export async function toPng (image) {
  const canvas = new OffscreenCanvas(image.width, image.height)
  canvas.getContext('2d', { alpha: false })?.putImageData(image, 0, 0)
  return canvas.convertToBlob({ type: 'image/png' })
}
