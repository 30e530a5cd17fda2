// node transformers_js.mjs <folder of models> <model> <task> <JSON list of inputs>: the answers of transformers.js by dtype.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, models, model, task, inputs] = process.argv.slice(2);
const library = createRequire(`${packages}/`).resolve("@huggingface/transformers");
const { env, pipeline } = await import(pathToFileURL(library));
Object.assign(env, { allowRemoteModels: false, localModelPath: models });
const answers = {};
for (const dtype of ["default", "q8", "int8", "fp32"]) {
  const answer = await pipeline(task, model, dtype === "default" ? {} : { dtype });
  answers[dtype] = [];
  for (const input of JSON.parse(inputs)) answers[dtype].push(await answer(...input));
}
console.log(JSON.stringify(answers));
