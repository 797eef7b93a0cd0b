// Itemlens from JavaScript (Node 18 or newer; the same fetch works in Deno, Bun and workers).
import { readFile } from "node:fs/promises";

const url = process.env.ITEMLENS_URL ?? "http://127.0.0.1:8000";
const key = process.env.ITEMLENS_API_KEY;
const samples = new URL("../samples/", import.meta.url);

// The service refused. Branch on `code`, which is stable; give `requestId` to its operator.
class ItemlensError extends Error {
  constructor(status, problem) {
    super(`${status} ${problem.code ?? "unknown"}: ${problem.detail ?? ""}`);
    this.status = status;
    this.code = problem.code ?? "unknown";
    this.requestId = problem.request_id;
    this.errors = problem.errors ?? []; // [{ pointer: "/items/0/image", detail: … }]
  }
}

// POST JSON. While the service is overloaded, wait as long as it asks and try again.
async function post(path, body, attempts = 4) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await fetch(url + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...(key && { "X-API-Key": key }) },
      body: JSON.stringify(body),
      signal: AbortSignal.timeout(30_000),
    });
    if (response.ok) return response.json();
    if ([429, 503].includes(response.status) && attempt < attempts) {
      await response.arrayBuffer(); // read to its end, so that the connection is free for the next attempt
      const seconds = Number(response.headers.get("Retry-After") ?? 1);
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
      continue;
    }
    // A proxy in between may answer with a page of its own.
    const isProblem = response.headers.get("Content-Type")?.startsWith("application/problem+json");
    throw new ItemlensError(response.status, isProblem ? await response.json() : {});
  }
}

const photo = async (name) => (await readFile(new URL(name, samples))).toString("base64");

// Let sure answers through, put the others before a person, and look at each item's own status.
const answer = await post("/v1/classify", {
  items: [
    { id: "sku-1", image: await photo("grey-tshirt.jpg"), text: "Puma Men Grey T-shirt" },
    { id: "sku-2", image: await photo("black-shoe.jpg") },
    { id: "sku-3" }, // neither photo nor title: fails alone
  ],
  attributes: ["articleType", "baseColour"],
  top_k: 1,
});
for (const result of answer.results) {
  if (result.status === "error") {
    console.log(result.id, "failed:", result.error.code);
    continue;
  }
  for (const [attribute, given] of Object.entries(result.attributes)) {
    console.log(result.id, attribute, given.label, given.confidence, given.decision);
  }
}

// base64 vectors are a quarter of the size of written-out numbers: little-endian float32.
const vectors = await post("/v1/embed", { items: [{ text: "black sports shoes" }], encoding: "base64" });
const bytes = Buffer.from(vectors.results[0].embedding, "base64");
const vector = Array.from({ length: vectors.dimensions }, (_, i) => bytes.readFloatLE(4 * i));
console.log("space", vectors.space_id, "length", Math.hypot(...vector).toFixed(3));

try {
  await post("/v1/classify", { items: [{}] });
} catch (error) {
  if (!(error instanceof ItemlensError)) throw error;
  console.log("refused:", error.message);
}
