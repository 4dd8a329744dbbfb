// From RGB to what a video encoder takes: Y'CbCr 4:2:0 of BT.709 in limited range, and tagged as such.
//
// Browsers convert RGB frames themselves, but not with the same matrix everywhere, and not always with the tag that fits.

/** The tags of every frame made here. */
export const BT709 = Object.freeze(/** @type {VideoColorSpaceInit} */ ({ primaries: 'bt709', transfer: 'bt709', matrix: 'bt709', fullRange: false }))

// Weights in units of 1/65536, from full-range R'G'B'.
const [YR, YG, YB] = [11966, 40254, 4064]
const [UR, UG, UB] = [-6596, -22189, 28785]
const [VR, VG, VB] = [28785, -26145, -2640]
const HALF = 1 << 15

/**
 * The planes Y, Cb and Cr one after the other. The last column and row are repeated up to the even size.
 * @param {ImageData} image
 * @param {number} width even, the image's own or one more
 * @param {number} height even, the image's own or one more
 * @param {Uint8Array} [planes] to write to, of width * height * 3 / 2 bytes
 */
export function toI420 (image, width, height, planes = new Uint8Array(width * height * 3 / 2)) {
  const { data, width: columns, height: rows } = image
  const [lastColumn, lastRow] = [columns - 1, rows - 1]
  let u = width * height
  let v = u * 5 / 4
  for (let y = 0; y < height; y += 2) {
    const upper = y * columns
    const lower = Math.min(y + 1, lastRow) * columns
    let top = y * width
    let bottom = top + width
    for (let x = 0; x < width; x += 2) {
      const right = Math.min(x + 1, lastColumn)
      let [red, green, blue] = [0, 0, 0]
      for (let corner = 0; corner < 4; corner++) {
        const at = 4 * ((corner < 2 ? upper : lower) + (corner & 1 ? right : x))
        const [r, g, b] = [data[at], data[at + 1], data[at + 2]]
        const luma = 16 + ((YR * r + YG * g + YB * b + HALF) >> 16)
        if (corner < 2) planes[top++] = luma
        else planes[bottom++] = luma
        red += r
        green += g
        blue += b
      }
      planes[u++] = 128 + ((UR * red + UG * green + UB * blue + 2 * 65536) >> 18)
      planes[v++] = 128 + ((VR * red + VG * green + VB * blue + 2 * 65536) >> 18)
    }
  }
  return planes
}
