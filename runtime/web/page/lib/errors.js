/** Errors for people: what happened, and what to do. */

/**
 * What went wrong, for programs.
 * @typedef {'missing' | 'damaged' | 'network' | 'input' | 'backend' | 'lost' | 'memory' | 'closed'} ErrorCode
 */

/** A failure with a message that can be shown as it is. */
export class DsmapError extends Error {
  /**
   * @param {ErrorCode} code
   * @param {string} message one or two sentences: the fact, then what to do
   */
  constructor (code, message) {
    super(message)
    this.name = 'DsmapError'
    this.code = code
  }
}

/**
 * What a caught value says, on one line.
 * @param {unknown} error
 * @returns {string}
 */
export function messageOf (error) {
  const text = error instanceof Error ? error.message : String(error)
  return text.trim().split('\n')[0] || 'no reason was given'
}
