// What went wrong with a video, in words for the person who chose it.

/** `message` states the fact, `advice` says what to do about it; both are plain sentences. */
export class VideoError extends Error {
  /**
   * @param {string} fact
   * @param {string} advice
   * @param {unknown} [cause]
   */
  constructor (fact, advice, cause) {
    super(fact, { cause })
    this.name = 'VideoError'
    this.advice = advice
  }
}

/**
 * What is said of an error of any kind: a VideoError as it is, others with what was being done.
 * @param {unknown} error
 * @param {string} fact what did not work
 * @param {string} advice
 */
export function asVideoError (error, fact, advice) {
  if (error instanceof VideoError || isAbort(error)) return /** @type {Error} */ (error)
  const reason = error instanceof Error ? error.message : String(error)
  return new VideoError(`${fact} (${reason.replace(/[.\s]+$/, '')})`, advice, error)
}

/** @param {unknown} error whether the user cancelled */
export function isAbort (error) {
  return error instanceof DOMException && error.name === 'AbortError'
}
