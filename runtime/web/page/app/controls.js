// The panel beside the stage: direction, style, strength and size.

import { el, fill, icon } from './dom.js'
import { notify } from './notices.js'
import { styleControls } from './controls-style.js'

const SIDES = [192, 256, 384, 512, 720, 1080]
const MOST_SEGMENTS = 2

/**
 * @param {HTMLElement} root
 * @param {import('./session.js').Session} session
 */
export function mountControls (root, session) {
  const ofStyles = session.hasStyles ? [styleControls(session), strengthControl(session)] : []
  const parts = [directionControl(session), ...ofStyles, sizeControl(session)]
  root.replaceChildren(...parts.map(part => part.root))
  session.addEventListener('change', (event) => {
    const names = /** @type {CustomEvent<Set<string>>} */ (event).detail
    for (const part of parts) part.update(names)
  })
}

/**
 * Switches the direction and says why where that fails.
 * @param {import('./session.js').Session} session
 * @param {string} target
 */
export async function chooseTarget (session, target) {
  try {
    await session.setTarget(target)
  } catch (error) {
    notify(`The model for ${target} cannot be loaded: ${/** @type {Error} */ (error).message}`, 'error')
  }
}

/** @param {import('./session.js').Session} session */
function directionControl (session) {
  const { directions } = session
  const choose = (/** @type {string} */ target) => chooseTarget(session, target)
  const choices
    = directions.length > MOST_SEGMENTS ? directionList(directions, choose) : directionSegments(directions, choose)
  const busy = el('p', { class: 'hint busy', hidden: true }, 'Loading…')
  const update = () => {
    choices.show(session.wanted)
    busy.hidden = !session.loading
  }
  update()
  return {
    root: el('fieldset', { class: 'group direction' }, el('legend', {}, 'Direction'), choices.root, busy),
    update
  }
}

/**
 * @param {{source: string, target: string}[]} directions
 * @param {(target: string) => void} choose
 */
function directionSegments (directions, choose) {
  const inputs = directions.map(({ target }) =>
    el('input', { type: 'radio', name: 'direction', value: target, on: { change: () => choose(target) } }))
  const labels = directions.map(({ source, target }, at) =>
    el(
      'label',
      { class: 'choice wide' },
      inputs[at],
      el(
        'span',
        { class: 'face' },
        el('span', { class: 'word' }, source),
        icon('arrow'),
        el('span', { class: 'hidden' }, ' to '),
        el('span', { class: 'word' }, target)
      )
    ))
  return {
    root: el('div', { class: 'choices column' }, ...labels),
    /** @param {string} target */
    show (target) {
      for (const input of inputs) input.checked = input.value === target
    }
  }
}

/**
 * @param {{source: string, target: string}[]} directions
 * @param {(target: string) => void} choose
 */
function directionList (directions, choose) {
  const list = el(
    'select',
    { 'aria-label': 'Direction', on: { change: () => choose(list.value) } },
    ...directions.map(({ source, target }) => el('option', { value: target }, `${source} → ${target}`))
  )
  return {
    root: list,
    /** @param {string} target */
    show (target) {
      list.value = target
    }
  }
}

/** @param {import('./session.js').Session} session */
function strengthControl (session) {
  const value = el('output', { class: 'value', htmlFor: 'strength' })
  const range = el('input', {
    type: 'range',
    id: 'strength',
    min: '0',
    max: '100',
    step: '5',
    on: { input: () => session.setStrength(Number(range.value) / 100) }
  })
  const hint = el('p', { class: 'hint' }, 'Below 100 % a frame takes about twice as long.')
  const update = () => {
    const percent = Math.round(session.strength * 100)
    if (Number(range.value) !== percent) range.value = String(percent)
    fill(range)
    range.setAttribute('aria-valuetext', `${percent} %`)
    value.textContent = `${percent} %`
    hint.hidden = percent === 0 || percent === 100
  }
  update()
  return {
    root: el(
      'div',
      { class: 'group' },
      el('div', { class: 'row' }, el('label', { htmlFor: 'strength' }, 'Strength'), value),
      range,
      hint
    ),
    update
  }
}

/** @param {import('./session.js').Session} session */
function sizeControl (session) {
  const list = el(
    'select',
    { id: 'size', on: { change: () => session.setSize(list.value === 'auto' ? 'auto' : Number(list.value)) } },
    el('option', { value: 'auto' }, 'Automatic'),
    ...SIDES.map(side => el('option', { value: String(side) }, `${side} pixels`)),
    el('option', { value: '0' }, 'Original')
  )
  const update = () => {
    list.value = String(session.size)
  }
  update()
  return {
    root: el(
      'div',
      { class: 'group' },
      el('label', { htmlFor: 'size' }, 'Size'),
      list,
      el('p', { class: 'hint' }, 'Of the shorter side. Smaller is faster; nothing is enlarged.')
    ),
    update
  }
}
