// Runs the official JavaScript client against a Hub and prints, as one JSON object, what it saw.
// The environment gives HUB_URL, TOKEN (of alice, write), OTHER_TOKEN (of bob) and MODE (xet or lfs).

import { createHash } from "node:crypto";
import * as hub from "@huggingface/hub";

const { HUB_URL, TOKEN, OTHER_TOKEN, MODE } = process.env;
const as = (accessToken) => ({ accessToken, hubUrl: HUB_URL });
const mine = as(TOKEN);
const useXet = MODE === "xet";
const name = `alice/js-${MODE}`;
const repo = { type: "model", name };
const bucket = { type: "bucket", name: `alice/js-bucket-${MODE}` };

function noise(seed, size) {
  const blocks = [];
  for (let block = 0; block * 32 < size; block++) {
    blocks.push(createHash("sha256").update(`${seed} ${block}`).digest());
  }
  return Buffer.concat(blocks).subarray(0, size);
}

const files = {
  "folder/small.txt": Buffer.from("some text\n"),
  "folder/noise.bin": noise(MODE, 300_000),
  "folder/repetitive.bin": Buffer.from(`0123456789abcdef ${MODE}`.repeat(50_000)),
};

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

function asFiles(contents) {
  return Object.entries(contents).map(([path, bytes]) => ({ path, content: new Blob([bytes]) }));
}

async function collect(entries) {
  const all = [];
  for await (const entry of entries) all.push(entry);
  return all;
}

async function refusal(action) {
  try {
    await action();
    return null;
  } catch (error) {
    return { status: error.statusCode ?? null, message: error.message };
  }
}

async function digests(where, paths, options) {
  const found = {};
  for (const path of paths) {
    const blob = await hub.downloadFile({ repo: where, path, ...mine, ...options });
    found[path] = blob && sha256(Buffer.from(await blob.arrayBuffer()));
  }
  return found;
}

const seen = { expected: Object.fromEntries(Object.entries(files).map(([path, bytes]) => [path, sha256(bytes)])) };

seen.user = (await hub.whoAmI(mine)).name;
seen.created = await hub.createRepo({ repo, visibility: "public", ...mine });
seen.createdAgain = await refusal(() => hub.createRepo({ repo, visibility: "public", ...mine }));

const first = await hub.uploadFiles({ repo, files: asFiles(files), commitTitle: "from JavaScript", useXet, ...mine });
seen.commit = first.commit.oid;

const entries = await collect(hub.listFiles({ repo, recursive: true, ...mine }));
seen.listed = Object.fromEntries(entries.map((entry) => [entry.path, entry]));
seen.pathsInfo = (await hub.pathsInfo({ repo, paths: ["folder", "folder/noise.bin", "missing"], ...mine })).map(
  (entry) => entry.path,
);
seen.downloaded = await digests(repo, Object.keys(files), {});
seen.downloadedPlain = await digests(repo, Object.keys(files), { xet: false });
seen.exists = [
  await hub.fileExists({ repo, path: "folder/noise.bin", ...mine }),
  await hub.fileExists({ repo, path: "missing", ...mine }),
];
seen.missing = await hub.downloadFile({ repo, path: "missing", ...mine });

const one = asFiles({ "more.txt": Buffer.from("more") });
const second = await hub.uploadFiles({ repo, files: one, parentCommit: seen.commit, useXet, ...mine });
seen.secondCommit = second.commit.oid;
const other = asFiles({ "other.txt": Buffer.from("other") });
seen.stale = await refusal(() => hub.uploadFiles({ repo, files: other, parentCommit: seen.commit, useXet, ...mine }));
await hub.deleteFile({ repo, path: "more.txt", ...mine });
seen.titles = (await collect(hub.listCommits({ repo, ...mine }))).map((commit) => commit.title);

const hidden = { type: "model", name: `${name}-private` };
await hub.createRepo({ repo: hidden, visibility: "private", ...mine });
seen.hiddenFromOther = await refusal(() => collect(hub.listFiles({ repo: hidden, ...as(OTHER_TOKEN) })));
seen.hiddenFromAnonymous = await refusal(() => collect(hub.listFiles({ repo: hidden, hubUrl: HUB_URL })));
seen.foreignWrite = await refusal(() => hub.uploadFiles({ repo, files: other, useXet, ...as(OTHER_TOKEN) }));
await hub.deleteRepo({ repo: hidden, ...mine });
seen.hiddenExists = await hub.repoExists({ repo: hidden, ...mine });

await hub.createRepo({ repo: bucket, ...mine });
await hub.uploadFiles({ repo: bucket, files: asFiles(files), ...mine });
seen.bucketListed = (await collect(hub.listFiles({ repo: bucket, recursive: true, ...mine }))).map((entry) => entry.path);
seen.bucketDownloaded = await digests(bucket, Object.keys(files), {});
await hub.deleteFiles({ repo: bucket, paths: ["folder/small.txt"], ...mine });
seen.bucketLeft = (await collect(hub.listFiles({ repo: bucket, recursive: true, ...mine }))).map((entry) => entry.path);

console.log(JSON.stringify(seen));
