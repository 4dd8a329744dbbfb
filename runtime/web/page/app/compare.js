// Before and after in one place, with a divider that is dragged or moved by the arrow keys.

import { el } from './dom.js'

/**
 * A picture and its translation over each other. The caller draws on `before` and `after`, which have the same size, and
 * calls `resize` when that changes. It fills the box it is put in, and keeps the pictures' proportions.
 *
 *     const compare = createCompare()
 *     root.append(compare.root)
 *     compare.resize(256, 192)
 *     compare.before.getContext('2d').drawImage(...)
 */
export function createCompare () {
  const before = el('canvas', { class: 'before', 'aria-hidden': 'true' })
  const after = el('canvas', { class: 'after', role: 'img', 'aria-label': 'The translation' })
  const range = el('input', {
    type: 'range',
    min: '0',
    max: '100',
    step: '1',
    value: '50',
    class: 'divider-range',
    'aria-label': 'Divider between the original and the translation'
  })
  const left = el('span', { class: 'badge left' })
  const right = el('span', { class: 'badge right' })
  const root = el(
    'div',
    { class: 'compare' },
    before,
    after,
    el('div', { class: 'divider', 'aria-hidden': 'true' }, el('span', { class: 'grip' })),
    range,
    left,
    right
  )

  const show = () => {
    root.style.setProperty('--split', `${range.value}%`)
    range.setAttribute('aria-valuetext', `${range.value} % original`)
  }
  /** @param {PointerEvent} event */
  const drag = (event) => {
    if (!root.classList.contains('split')) return
    const box = root.getBoundingClientRect()
    range.value = String(Math.round((100 * (event.clientX - box.left)) / box.width))
    show()
  }
  range.addEventListener('input', show)
  root.addEventListener('pointerdown', (event) => {
    if (event.button !== 0 || !root.classList.contains('split')) return
    root.setPointerCapture(event.pointerId)
    drag(event)
    range.focus({ preventScroll: true })
    event.preventDefault()
  })
  root.addEventListener('pointermove', (event) => {
    if (root.hasPointerCapture(event.pointerId)) drag(event)
  })

  const compare = {
    root,
    before,
    after,
    /** Whether the divider is there; without it the translation alone is seen. */
    get split () {
      return root.classList.contains('split')
    },
    set split (on) {
      root.classList.toggle('split', on)
      range.disabled = !on
    },
    /**
     * @param {number} width of both pictures, in pixels
     * @param {number} height
     */
    resize (width, height) {
      for (const canvas of [before, after]) {
        if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height })
      }
      root.style.setProperty('--ratio', String(width / height))
    },
    /**
     * Names both sides, as text.
     * @param {string} source
     * @param {string} target
     */
    label (source, target) {
      left.textContent = source
      right.textContent = target
      after.setAttribute('aria-label', `Translated to ${target}`)
    }
  }
  compare.split = true
  show()
  return compare
}
