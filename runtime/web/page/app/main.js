// Starts the page: opens the model, fills the controls, and switches between the modes.

import { keepOffline } from '../lib/offline.js'
import { openAbout, privacyLine } from './about.js'
import { mountControls } from './controls.js'
import { byId, el, icon } from './dom.js'
import { onKey } from './keys.js'
import { notify } from './notices.js'
import { openSession } from './session.js'

/** @typedef {import('./session.js').Session} Session */
/** @typedef {import('./keys.js').Mode} Mode */

const MODES = ['camera', 'video', 'images']

async function start () {
  const stage = byId('stage')
  const progress = loading(stage)
  try {
    const backend = new URLSearchParams(location.search).get('backend') ?? 'auto'
    const session = await openSession({ backend, onProgress: progress })
    showModel(session)
    await session.setTarget(session.target)
    if (session.translator && !session.remote) void keepForLater(session, session.translator)
    runModes(stage, session)
  } catch (error) {
    fail(stage, /** @type {Error} */ (error))
  }
}

/**
 * Keeps the model for offline use; what cannot be kept is told in the about box.
 * @param {Session} session
 * @param {import('../lib/dsmap.js').Translator} translator
 */
async function keepForLater (session, translator) {
  const lost = await keepOffline(translator).catch((/** @type {Error} */ { message }) => [message])
  if (lost.length) session.notOffline ||= `the browser could not keep ${lost.length === 1 ? lost[0] : `${lost.length} files`}`
}

/**
 * A progress bar on the stage; the function moves it.
 * @param {HTMLElement} stage
 */
function loading (stage) {
  const bar = el('progress', { 'aria-label': 'Loading the model', max: 1 })
  stage.replaceChildren(el('div', { class: 'empty' }, el('p', { class: 'empty-title' }, 'Loading the model…'), bar))
  return (/** @type {number} */ part) => { bar.value = part }
}

/**
 * @param {HTMLElement} stage
 * @param {Error} error
 */
function fail (stage, error) {
  console.error(error)
  byId('controls').inert = true
  stage.replaceChildren(
    el(
      'div',
      { class: 'empty', role: 'alert' },
      icon('warning'),
      el('p', { class: 'empty-title' }, 'The model cannot be used here'),
      el('p', { class: 'text' }, error.message)
    )
  )
}

/** @param {Session} session */
function showModel (session) {
  document.title = `${session.site.name} · dsmap`
  byId('model-name').textContent = session.site.name
  byId('privacy').replaceChildren(icon(session.remote ? 'cloud' : 'lock'), el('span', {}, privacyLine(session)))
  byId('about-open').addEventListener('click', () => openAbout(session))
  mountControls(byId('controls'), session)
  session.addEventListener('numbers', event => showNumbers(session, /** @type {CustomEvent} */ (event).detail))
  session.addEventListener('change', (event) => {
    if (/** @type {CustomEvent} */ (event).detail.has('translator')) showNumbers(session, null)
  })
}

/**
 * The page's last line: frames per second, delay, size, backend.
 * @param {Session} session
 * @param {import('./session.js').Numbers | null} numbers
 */
function showNumbers (session, numbers) {
  const backend = session.translator?.backend
  const entries = [
    numbers?.text && ['Progress', numbers.text],
    numbers?.fps !== undefined && ['Rate', `${numbers.fps.toFixed(numbers.fps < 10 ? 1 : 0)} fps`],
    numbers?.delay !== undefined && ['Delay', `${Math.round(numbers.delay)} ms`],
    numbers?.width && ['Size', `${numbers.width} × ${numbers.height}`],
    backend && ['Backend', backend.name]
  ]
  byId('numbers').replaceChildren(
    ...entries
      .filter(entry => Array.isArray(entry))
      .map(([name, value]) =>
        el(
          'div',
          { class: 'entry' },
          el('dt', {}, name),
          el('dd', { id: `number-${name.toLowerCase()}` }, value),
          name === 'Backend' && el('dd', { class: 'reason', title: backend?.reason }, backend?.reason)
        ))
  )
}

/**
 * Shows the mode that the address names after #, and the others when their tabs are chosen.
 * @param {HTMLElement} stage
 * @param {Session} session
 */
function runModes (stage, session) {
  const tabs = [...document.querySelectorAll('[role=tab]')].map(tab => /** @type {HTMLButtonElement} */ (tab))
  /** @type {Mode | null} */
  let mode = null
  let shown = ''

  const show = async (/** @type {string} */ name) => {
    if (name === shown) return
    const question = mode?.question?.()
    if (question && !confirm(question)) return history.replaceState(null, '', `#${shown}`)
    shown = name
    for (const tab of tabs) {
      const chosen = tab.dataset.mode === name
      tab.setAttribute('aria-selected', String(chosen))
      tab.tabIndex = chosen ? 0 : -1
    }
    stage.setAttribute('aria-labelledby', `tab-${name}`)
    mode?.unmount()
    mode = null
    stage.replaceChildren()
    stage.dataset.mode = name
    session.report(null)
    const module = await import(`./${name}.js`)
    if (shown === name) mode = module.mount(stage, session)
  }
  for (const tab of tabs) {
    tab.addEventListener('click', () => {
      location.hash = tab.dataset.mode ?? ''
    })
    tab.addEventListener('keydown', event => moveBetween(tabs, tab, event))
  }
  const fromAddress = () => show(MODES.includes(location.hash.slice(1)) ? location.hash.slice(1) : MODES[0])
  window.addEventListener('hashchange', fromAddress)
  window.addEventListener('keydown', event => onKey(event, session, mode))
  return fromAddress()
}

/**
 * Arrow keys between the tabs, as in any tab list.
 * @param {HTMLButtonElement[]} tabs
 * @param {HTMLButtonElement} tab
 * @param {KeyboardEvent} event
 */
function moveBetween (tabs, tab, event) {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key]
  const to = step
    ? tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length]
    : event.key === 'Home'
      ? tabs[0]
      : event.key === 'End'
        ? tabs[tabs.length - 1]
        : null
  if (!to) return
  event.preventDefault()
  to.focus()
  to.click()
}

window.addEventListener('unhandledrejection', event =>
  notify(`Something went wrong: ${event.reason?.message ?? event.reason}`, 'error'))
start()
