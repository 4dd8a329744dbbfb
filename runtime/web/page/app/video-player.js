// Plays a video and its translation over each other, with one set of controls.

import { button, el } from './dom.js'

// Seconds by which the original may differ from the translation before it is moved.
const DRIFT = 0.06

/**
 * @param {ReturnType<typeof import('./compare.js').createCompare>} compare its canvases give way to the two videos until `close`
 * @param {Blob} original may be of a format that does not play; the translation is then shown alone
 * @param {Blob} translation
 */
export function createPlayer (compare, original, translation) {
  const urls = [original, translation].map(blob => URL.createObjectURL(blob))
  const settings = { playsInline: true, preload: 'auto', loop: true }
  const before = el('video', { ...settings, class: 'before', src: urls[0], muted: true, 'aria-hidden': 'true', tabIndex: -1 })
  const after = el('video', { ...settings, class: 'after', id: 'result', src: urls[1] })
  compare.before.replaceWith(before)
  compare.after.replaceWith(after)
  before.addEventListener('error', () => {
    compare.split = false
    before.hidden = true
  })

  const seek = el('input', { type: 'range', min: '0', max: '1', step: 'any', value: '0', class: 'seek', 'aria-label': 'Position in the video' })
  const time = el('span', { class: 'value time' })
  const play = button({ icon: 'play', label: 'Play', id: 'play', onclick: () => toggle() })
  const use = /** @type {SVGUseElement} */ (play.querySelector('use'))

  const show = () => {
    const { currentTime, duration } = after
    const length = Number.isFinite(duration) ? duration : 0
    seek.max = String(length || 1)
    seek.value = String(currentTime)
    seek.style.setProperty('--value', `${length ? 100 * currentTime / length : 0}%`)
    seek.setAttribute('aria-valuetext', clock(currentTime))
    time.textContent = `${clock(currentTime)} / ${clock(length)}`
    if (Math.abs(before.currentTime - currentTime) > (after.paused ? 0.001 : DRIFT) && !before.seeking) before.currentTime = currentTime
  }
  const state = () => {
    const label = after.paused ? 'Play' : 'Pause'
    use.setAttribute('href', after.paused ? '#i-play' : '#i-pause')
    play.setAttribute('aria-label', label)
    play.title = label
    if (after.paused) before.pause()
    else before.play().catch(() => {})
    show()
  }
  const toggle = () => after.paused ? after.play().catch(() => {}) : after.pause()
  for (const type of ['play', 'pause', 'ended']) after.addEventListener(type, state)
  for (const type of ['timeupdate', 'seeked', 'loadedmetadata', 'durationchange']) after.addEventListener(type, show)
  before.addEventListener('loadeddata', show)
  seek.addEventListener('input', () => { after.currentTime = Number(seek.value) })
  show()

  return {
    controls: [play, seek, time],
    toggle,
    pause: () => after.pause(),
    close () {
      after.pause()
      before.replaceWith(compare.before)
      after.replaceWith(compare.after)
      for (const video of [before, after]) {
        video.removeAttribute('src')
        video.load()
      }
      urls.forEach(url => URL.revokeObjectURL(url))
    }
  }
}

/** @param {number} seconds */
function clock (seconds) {
  const whole = Math.floor(seconds)
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, '0')}`
}
