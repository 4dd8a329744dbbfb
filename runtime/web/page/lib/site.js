/** `model/site.json`: its types, and reading it. */

import { DsmapError } from './errors.js'
import { fetchBytes } from './files.js'

/**
 * @typedef {{ path: string, bytes: number, sha256: string }} SiteFile
 * @typedef {{ mean: number[], std: number[], axes?: number[][], named: Record<string, number[]> }} DomainStyles
 * @typedef {{ source: string, target: string }} Direction
 * @typedef {'content_encoder' | 'mapping' | 'style_mlp' | 'decoder' | 'style_encoder'} Component
 * @typedef {{ multiple_of: number, minimum: number, style_minimum: number, trained_at: number }} Sizes
 * @typedef {{ width: number, height: number, frame: string, output: string }} Reference
 * @typedef {Record<Component, Record<string, SiteFile>>} Files
 */

/**
 * @typedef {object} Site
 * @property {number} format
 * @property {string} dsmap version of the program that wrote it
 * @property {string} name of the model
 * @property {[string, string]} domains
 * @property {Direction[]} directions
 * @property {number} style_dim length of a style code
 * @property {Sizes} sizes
 * @property {Record<string, DomainStyles>} styles by domain
 * @property {string[]} precisions
 * @property {Record<string, number>} least_psnr by precision, in dB
 * @property {Record<string, Files>} files by precision
 * @property {Record<string, Reference>} reference by target
 * @property {Record<string, number>} [runtime] how many bytes the builds of ONNX Runtime have, by name
 * @property {string} licence
 * @property {string} card
 * @property {Record<string, unknown> | null} server
 */

const FORMAT = 1

/**
 * Reads `model/site.json` of the site at `root`.
 * @param {URL} root
 * @returns {Promise<Site>}
 */
export async function readSite (root) {
  const bytes = await fetchBytes(new URL('model/site.json', root), { cache: 'no-cache' })
  /** @type {any} */
  let site
  try {
    site = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch {
    throw new DsmapError('damaged', 'model/site.json is damaged. Copy the site again, whole.')
  }
  if (site?.format !== FORMAT) {
    throw new DsmapError(
      'damaged',
      `model/site.json has format ${String(site?.format)}, this page reads format ${FORMAT}. Copy the site again, whole.`
    )
  }
  return site
}

/**
 * The value that `record` itself has under `name`: names of domains and styles may be those of Object's methods.
 * @template T
 * @param {Record<string, T>} record
 * @param {string} name
 * @returns {T | undefined}
 */
export function own (record, name) {
  return Object.hasOwn(record, name) ? record[name] : undefined
}
