// Building markup without HTML strings: whatever comes from a bundle goes in as text.

const SVG = 'http://www.w3.org/2000/svg'

/** @typedef {Node | string | number | null | undefined | false} Child */

/**
 * A new element. `props`: `class`, `on` (listeners by event name) and properties of the element (`type`, `disabled`, `htmlFor`);
 * names with a dash, and `role`, become attributes. Children that are not nodes become text.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [props]
 * @param {...Child} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el (tag, props = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue
    if (name === 'class') node.className = value
    else if (name === 'on')
      for (const [type, listener] of Object.entries(value))
        node.addEventListener(type, /** @type {EventListener} */ (listener))
    else if (name.includes('-') || name === 'role') node.setAttribute(name, String(value))
    else /** @type {any} */ (node)[name] = value
  }
  node.append(
    ...children
      .filter(child => child !== null && child !== undefined && child !== false)
      .map(child => (child instanceof Node ? child : String(child)))
  )
  return node
}

/**
 * One of the icons of index.html, hidden from screen readers: what it stands beside has the words.
 * @param {string} name
 */
export function icon (name) {
  const svg = document.createElementNS(SVG, 'svg')
  svg.setAttribute('class', 'icon')
  svg.setAttribute('aria-hidden', 'true')
  const use = document.createElementNS(SVG, 'use')
  use.setAttribute('href', `#i-${name}`)
  svg.append(use)
  return svg
}

/**
 * A button with an icon. Without `text` only the icon is seen, and `label` is read out and shown as a tooltip.
 * @param {{icon?: string, text?: string, label?: string, id?: string, class?: string, pressed?: boolean, disabled?: boolean, onclick: (event: MouseEvent) => void}} options
 */
export function button ({ icon: name, text, label, id, class: kind = '', pressed, disabled, onclick }) {
  return el(
    'button',
    {
      type: 'button',
      id,
      class: `button ${text ? '' : 'round'} ${kind}`.trim().replace(/\s+/g, ' '),
      title: text ? undefined : label,
      'aria-label': label,
      'aria-pressed': pressed,
      disabled,
      on: { click: onclick }
    },
    name && icon(name),
    text && el('span', {}, text)
  )
}

/**
 * The element of that id, which index.html has.
 * @param {string} id
 */
export function byId (id) {
  const found = document.getElementById(id)
  if (!found) throw new Error(`index.html has no #${id}`)
  return found
}

/**
 * Offers `blob` as a download.
 * @param {Blob} blob
 * @param {string} name
 */
export function download (blob, name) {
  const url = URL.createObjectURL(blob)
  el('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 60_000)
}

/**
 * Part of a file's name made of a text from a bundle or a user.
 * @param {string} text
 * @param {number} [most] characters
 * @param {string} [empty] what stands for a text of which nothing is left
 */
export function fileName (text, most = 60, empty = 'dsmap') {
  const clean = text.normalize('NFKC').replace(/[^\p{L}\p{N}._-]+/gu, '-').replace(/^[-.]+|[-.]+$/g, '')
  return clean.slice(0, most) || empty
}

/**
 * Lets the stylesheet colour a slider up to its value.
 * @param {HTMLInputElement} range
 */
export function fill (range) {
  range.style.setProperty(
    '--value',
    `${(100 * (Number(range.value) - Number(range.min))) / (Number(range.max) - Number(range.min))}%`
  )
}
