// Runs every scenario, one JSON line each. Importing a module registers its scenarios.

import "./chat.js";
import "./streams.js";
import "./tools.js";
import "./structured.js";
import "./refusals.js";
import "./failures.js";
import "./leaving.js";
import "./retries.js";
import "./batches.js";
import "./tuning.js";
import { runAll } from "./scenario.js";

await runAll();
// What a failed scenario left waiting is not waited for.
process.exit();
