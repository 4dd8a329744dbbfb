// The controls of the style: a choice, and what belongs to the choice (a seed, a picture, a blend).

import { button, el, fill } from './dom.js'
import { notify } from './notices.js'

const SEEDS = 10_000
const MEAN = 'average'
const THUMBNAIL = 72

/** @param {import('./session.js').Session} session */
export function styleControls (session) {
  const list = el('div', { class: 'choices wrap' })
  const parts = [randomPart(session), picturePart(session), blendPart(session)]
  const root = el(
    'fieldset',
    { class: 'group style' },
    el('legend', {}, 'Style'),
    list,
    ...parts.map(part => part.root)
  )
  let shown = ''
  let chosen = '' // a picture's style, before there is a picture

  const choose = (/** @type {string} */ value) => {
    if (value.startsWith('named:')) return set(session, { kind: 'named', name: value.slice(6) })
    if (value === 'mean') return set(session, { kind: 'mean' })
    chosen = value
    update()
    return parts.find(part => part.kind === value)?.choose()
  }
  const rebuild = () => {
    const values = [
      ['mean', MEAN],
      ...session.named.map(name => [`named:${name}`, name]),
      ['random', 'random'],
      ...(session.readsPictures ? [['picture', 'from a picture']] : []),
      ...(session.named.length ? [['blend', 'blend two']] : [])
    ]
    list.replaceChildren(
      ...values.map(([value, text]) =>
        el(
          'label',
          { class: 'choice' },
          el('input', { type: 'radio', name: 'style', value, on: { change: () => choose(value) } }),
          el('span', { class: 'face' }, text)
        ))
    )
  }
  const update = (/** @type {Set<string>} */ names = new Set()) => {
    if (shown !== session.target) {
      rebuild()
      shown = session.target
    }
    if (names.has('style')) chosen = ''
    const { choice } = session
    const value = chosen || (choice.kind === 'named' ? `named:${choice.name}` : choice.kind)
    for (const input of list.querySelectorAll('input')) input.checked = input.value === value
    for (const part of parts) {
      part.root.hidden = part.kind !== value
      part.update()
    }
  }
  update()
  return { root, update }
}

/**
 * Sets the style and says why where that fails.
 * @param {import('./session.js').Session} session
 * @param {import('./session.js').StyleChoice} choice
 */
export async function set (session, choice) {
  try {
    await session.setStyle(choice)
  } catch (error) {
    notify(`This style cannot be used: ${/** @type {Error} */ (error).message}`, 'error')
    session.dispatchEvent(new CustomEvent('change', { detail: new Set(['style']) }))
  }
}

/** Another random style. @param {import('./session.js').Session} session */
export function another (session) {
  return set(session, { kind: 'random', seed: Math.floor(Math.random() * SEEDS) })
}

/** @param {import('./session.js').Session} session */
function randomPart (session) {
  const seed = el('input', {
    type: 'number',
    id: 'seed',
    min: '0',
    step: '1',
    value: '7',
    inputMode: 'numeric',
    on: { change: () => choose() }
  })
  const choose = () => {
    const value = Math.floor(Number(seed.value))
    return set(session, { kind: 'random', seed: Number.isSafeInteger(value) && value >= 0 ? value : 0 })
  }
  return {
    kind: 'random',
    root: el(
      'div',
      { class: 'detail' },
      el('label', { htmlFor: 'seed' }, 'Seed'),
      seed,
      button({ icon: 'dice', text: 'Another', onclick: () => another(session) })
    ),
    choose,
    update () {
      if (session.choice.kind === 'random') seed.value = String(session.choice.seed)
    }
  }
}

/** @param {import('./session.js').Session} session */
function picturePart (session) {
  const thumbnail = el('canvas', {
    class: 'thumbnail',
    width: THUMBNAIL,
    height: THUMBNAIL,
    role: 'img',
    'aria-label': 'The picture of the style'
  })
  const name = el('span', { class: 'file-name' })
  const file = el('input', {
    type: 'file',
    accept: 'image/*',
    hidden: true,
    tabIndex: -1,
    'aria-label': 'Picture of the style'
  })
  /** @type {ImageBitmap | null} */
  let last = null
  let lastName = ''

  const take = async (/** @type {File} */ picture) => {
    try {
      last = await createImageBitmap(picture)
    } catch {
      return notify(`${picture.name} is not an image that this browser can read.`, 'error')
    }
    lastName = picture.name
    return set(session, { kind: 'picture', picture: last, name: lastName })
  }
  file.addEventListener('change', () => {
    const picture = file.files?.[0]
    file.value = ''
    if (picture) take(picture)
  })
  return {
    kind: 'picture',
    root: el(
      'div',
      { class: 'detail' },
      thumbnail,
      name,
      button({ icon: 'upload', text: 'Choose…', onclick: () => file.click() }),
      file
    ),
    choose () {
      return last && set(session, { kind: 'picture', picture: last, name: lastName })
    },
    update () {
      const { choice } = session
      thumbnail.hidden = choice.kind !== 'picture'
      if (choice.kind !== 'picture') return
      name.textContent = choice.name
      drawCover(thumbnail, choice.picture)
    }
  }
}

/** @param {import('./session.js').Session} session */
function blendPart (session) {
  const from = el('select', { 'aria-label': 'First style', on: { change: () => choose() } })
  const to = el('select', { 'aria-label': 'Second style', on: { change: () => choose() } })
  const range = el('input', {
    type: 'range',
    min: '0',
    max: '100',
    value: '50',
    'aria-label': 'Blend',
    on: { input: () => choose() }
  })
  let listed = ''
  const choose = () =>
    set(session, { kind: 'blend', from: from.value, to: to.value, amount: Number(range.value) / 100 })
  const fillLists = () => {
    for (const list of [from, to])
      list.replaceChildren(
        el('option', { value: '' }, MEAN),
        ...session.named.map(name => el('option', { value: name }, name))
      )
    to.selectedIndex = 1
    listed = session.target
  }
  return {
    kind: 'blend',
    root: el('div', { class: 'detail blend' }, from, range, to),
    choose,
    update () {
      if (listed !== session.target) fillLists()
      const { choice } = session
      if (choice.kind === 'blend') {
        from.value = choice.from
        to.value = choice.to
        range.value = String(Math.round(100 * choice.amount))
        range.setAttribute('aria-valuetext', `${range.value} % ${choice.to || MEAN}`)
      }
      fill(range)
    }
  }
}

/**
 * Fills a canvas with the middle of a picture.
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} picture
 */
function drawCover (canvas, picture) {
  const side = Math.min(picture.width, picture.height)
  canvas
    .getContext('2d')
    ?.drawImage(
      picture,
      (picture.width - side) / 2,
      (picture.height - side) / 2,
      side,
      side,
      0,
      0,
      canvas.width,
      canvas.height
    )
}
