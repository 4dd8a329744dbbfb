/** Preparation of style images: the same sizes as in Python (`fit_style_image`). */

const MAX_ASPECT = 3 // a panorama would need gigabytes of memory for eight numbers

/**
 * Which part of a style image is read, and at what size: at most that of the training images, and a smaller image is
 * enlarged only to the encoder's minimum.
 * @param {number} imageWidth
 * @param {number} imageHeight
 * @param {import('./site.js').Sizes} sizes
 */
export function styleImagePart (imageWidth, imageHeight, sizes) {
  const longest = Math.trunc(MAX_ASPECT * Math.min(imageWidth, imageHeight))
  const [cropWidth, cropHeight] = [Math.min(imageWidth, longest), Math.min(imageHeight, longest)]
  const shorter = Math.min(cropWidth, cropHeight)
  const wanted = Math.max(Math.min(shorter, sizes.trained_at), sizes.style_minimum)
  const factor = wanted / shorter
  const [fullWidth, fullHeight] = [cropWidth, cropHeight].map((side) => Math.max(wanted, Math.round(side * factor)))
  const [width, height] = [fullWidth, fullHeight].map((side) => side - (side % sizes.multiple_of))
  const part = {
    width: (cropWidth * width) / fullWidth,
    height: (cropHeight * height) / fullHeight,
    x: Math.floor((imageWidth - cropWidth) / 2) + (Math.floor((fullWidth - width) / 2) * cropWidth) / fullWidth,
    y: Math.floor((imageHeight - cropHeight) / 2) + (Math.floor((fullHeight - height) / 2) * cropHeight) / fullHeight
  }
  return { part, width, height }
}
