// What transformers.js answers: node transformersjs.mjs NODE_MODULES < request.json > answers.json, of local files alone.
//
// The request is {"texts": [...], "classes": DIRECTORY, "embeddings": DIRECTORY, "pooling": "mean" or "cls"}. The answer
// has, for each of the two directories that is given, a value a text: {label: probability}, or a vector of length 1.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

const folder = join(process.argv[2], '@huggingface', 'transformers')
const about = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
const file = about.exports.node.import.default
const { env, pipeline } = await import(pathToFileURL(join(folder, file)))
env.allowRemoteModels = false

const asked = JSON.parse(readFileSync(0, 'utf8'))
const open = (task, directory) => pipeline(task, directory, { dtype: 'fp32', device: 'cpu', local_files_only: true })
const found = { version: about.version }
if (asked.classes) {
  const classify = await open('text-classification', asked.classes)
  const scores = await classify(asked.texts, { top_k: null })
  found.classes = scores.map((one) => Object.fromEntries(one.map(({ label, score }) => [label, score])))
}
if (asked.embeddings) {
  const embed = await open('feature-extraction', asked.embeddings)
  found.embeddings = (await embed(asked.texts, { pooling: asked.pooling, normalize: true })).tolist()
}
process.stdout.write(JSON.stringify(found))
