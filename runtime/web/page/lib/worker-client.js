/** The page's end of a worker: calls that return promises. */

import { DsmapError } from './errors.js'

/** @typedef {{ resolve: (value: any) => void, reject: (error: Error) => void }} Waiting */

/** One worker. After `close`, and once it is lost, every call fails. */
export class WorkerClient {
  constructor () {
    this.worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module', name: 'dsmap' })
    /** @type {Map<number, Waiting>} */
    this.waiting = new Map()
    this.number = 0
    /** Why it cannot be used any more. @type {DsmapError | null} */
    this.ended = null
    this.worker.addEventListener('message', ({ data }) => this.#receive(data))
    this.worker.addEventListener('error', (event) => {
      event.preventDefault()
      this.#end(new DsmapError('lost', `the program that translates has stopped: ${event.message || 'it did not load'}`))
    })
  }

  /**
   * @param {string} call
   * @param {Record<string, unknown>} given
   * @param {Transferable[]} [transfer]
   * @returns {Promise<any>}
   */
  call (call, given, transfer = []) {
    if (this.ended) return Promise.reject(this.ended)
    const id = ++this.number
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject })
      this.worker.postMessage({ id, call, ...given }, transfer)
    })
  }

  close () {
    this.#end(new DsmapError('closed', 'The translator was closed.'))
  }

  /** @param {any} data */
  #receive (data) {
    if ('lost' in data) {
      this.#end(new DsmapError('lost', `The graphics processor was lost: ${data.lost}`))
      return
    }
    const waiting = this.waiting.get(data.id)
    this.waiting.delete(data.id)
    if (!data.error) return waiting?.resolve(data.result)
    const error = explained(data.error.message)
    waiting?.reject(error)
    // After that the runtime may be left with half of its memory: the next call begins with a new one.
    if (error.code === 'memory') this.#end(new DsmapError('lost', error.message))
    else if (error.code === 'lost') this.#end(error)
  }

  /** @param {DsmapError} error */
  #end (error) {
    this.ended ??= error
    this.worker.terminate()
    for (const { reject } of this.waiting.values()) reject(this.ended)
    this.waiting.clear()
  }
}

const NO_MEMORY = /bad_alloc|out of memory|allocat|array length|Aborted|no canvas|max\w*Buffer\w*Size|memory access/i
const LOST = /device.*lost|lost.*device|device.*destroyed|Instance.*dropped/i

/**
 * @param {string} given message of the runtime
 * @returns {DsmapError}
 */
function explained (given) {
  const message = given.replace(/^failed to call \w+\(\)\. ERROR_CODE: \d+, ERROR_MESSAGE: /, '')
  if (LOST.test(message)) return new DsmapError('lost', `The graphics processor was lost: ${message}`)
  if (NO_MEMORY.test(message)) {
    return new DsmapError('memory', `There is not enough memory for this size (${message}). Choose a smaller one.`)
  }
  return new DsmapError('backend', `ONNX Runtime stopped: ${message}`)
}
